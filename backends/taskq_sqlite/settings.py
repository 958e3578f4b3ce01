"""What the URL says: where the file is, and the few options that have a user."""

from collections.abc import Mapping
from os import sep
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct

from taskq.broker import Durability
from taskq.errors import ConfigError

Synchronous = Literal["full", "normal", "off"]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The options of ``sqlite://``."""

    synchronous: Synchronous = "full"
    """When a commit waits for the disk: each (``disk``), at checkpoints (``seconds``), or never (``process``)."""
    busy_timeout: float = 5.0
    """Seconds to wait for another process's transaction."""
    max_size: int = 1 << 20
    """Bytes of a job's body."""
    dedup_window: float = 0.0
    """Seconds for which the id of an ended job is not added again; each such id is a row meanwhile."""

    @property
    def durability(self) -> Durability:
        durabilities: dict[Synchronous, Durability] = {"full": "disk", "normal": "seconds", "off": "process"}
        return durabilities[self.synchronous]


def read(url: str, options: Mapping[str, object]) -> tuple[Path, Settings]:
    """The file a URL names and its settings. Raises ConfigError for what it cannot use."""
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment or not path or path.endswith(sep):
        raise ConfigError(f"{url!r} names no file: write sqlite:///relative.db or sqlite:////absolute/path.db")
    said: dict[str, object] = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    known = ", ".join(Settings.__struct_fields__)
    unknown = ", ".join(sorted(said.keys() - set(Settings.__struct_fields__)))
    if unknown:
        raise ConfigError(f"{url!r}: unknown option {unknown}; sqlite knows {known}")
    try:
        settings = msgspec.convert(said, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{url!r}: {error}; sqlite knows {known}") from error
    if settings.busy_timeout < 0 or settings.max_size < 1 or settings.dedup_window < 0:
        raise ConfigError(f"{url!r}: busy_timeout and dedup_window are at least 0, max_size at least 1")
    return Path(path), settings
