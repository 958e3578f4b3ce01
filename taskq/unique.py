"""Keys derived from a call's arguments. Pure."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from taskq.codec import Codec
from taskq.errors import ConfigError

KeySpec = bool | str | tuple[str, ...]
"""True: all arguments; names: these arguments; a string: this very key; False: none."""


def check_names(spec: KeySpec, task: str, names: Collection[str]) -> None:
    """Raises ConfigError for a key made of what the task does not take."""
    for name in spec if isinstance(spec, tuple) else ():
        if name not in names:
            known = ", ".join(sorted(names)) or "it has none"
            raise ConfigError(f"task {task}: a key is to be made of {name!r}, which is none of its arguments ({known})")


def derive_key(spec: KeySpec, task: str, arguments: Mapping[str, Any], codec: Codec) -> str | None:
    """The key of a call whose ``arguments`` include the defaults, or None without one.

    Equal arguments give equal keys however they were passed; keys of different tasks differ unless the spec is a
    string, which is taken as it is. Raises EncodeError for a default that cannot be sent.
    """
    if isinstance(spec, str):
        return spec
    if spec is False:
        return None
    if isinstance(spec, tuple):
        arguments = {name: arguments[name] for name in spec}
    return f"{task}:{hashlib.sha256(codec.encode_canonical(arguments)).hexdigest()}"
