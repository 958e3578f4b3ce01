"""Keys derived from a call's arguments. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

from taskq.codec import Codec
from taskq.errors import ConfigError

KeySpec = bool | str | tuple[str, ...]
"""True: all arguments; names: these arguments; a string: this very key; False: none."""


def derive_key(spec: KeySpec, task: str, arguments: Mapping[str, Any], codec: Codec) -> str | None:
    """The key of a call whose ``arguments`` include the defaults, or None without one.

    Equal arguments give equal keys however they were passed; keys of different tasks differ unless the spec is a
    string, which is taken as it is. Raises ConfigError for a name the task does not have.
    """
    if isinstance(spec, str):
        return spec
    if spec is False:
        return None
    if isinstance(spec, tuple):
        missing = [name for name in spec if name not in arguments]
        if missing:
            raise ConfigError(f"task {task}: a key is to be made of {missing[0]!r}, which is none of its arguments")
        arguments = {name: arguments[name] for name in spec}
    canonical = codec.encode_canonical([task, dict(sorted(arguments.items()))])
    return f"{task}:{hashlib.sha256(canonical).hexdigest()}"
