"""What the URL says: which account's endpoint, which prefix, and the few options that have a user."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError

_SPELLINGS = "sqs://region/prefix, or sqs+http://host:port/prefix for another server"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")
_LONGEST_POLL = 20
_LARGEST = 1 << 20


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of ``sqs://`` and its kin."""

    prefix: str = "taskq"
    """Stands before the name of every queue: apps with prefixes of their own share an account."""
    region: str | None = None
    """None: that of the usual AWS configuration."""
    endpoint: str | None = None
    """Where another server answers; None: where AWS does."""
    fifo: bool = False
    """The queues are FIFO queues."""
    bands: tuple[int, ...] = (0,)
    """The least priority of each queue that stands for one; ``bands=10,0,-10`` makes three of each."""
    poll: int = _LONGEST_POLL
    """Seconds of a long poll: what an idle queue costs, and the longest that closing waits for one."""
    max_size: int = _LARGEST
    """Bytes of a message; 262144 for servers that take no more."""
    create: bool = False
    """Make queues that are missing, for development and tests."""
    patience: float = 10.0
    """Seconds after which a server that does not answer counts as lost."""
    connections: int | None = None
    """Calls under way at once at most, besides the long polls, of which a queue has 1 to 16; None: as many as load
    warrants, some dozens."""


def read(url: str, options: Mapping[str, object]) -> Settings:
    """The settings that a URL and options name. Raises ConfigError for what it cannot use."""
    parts = urlsplit(url)
    said: dict[str, object] = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    if isinstance(said.get("bands"), str):
        said["bands"] = str(said["bands"]).split(",")
    if parts.path.strip("/"):
        said["prefix"] = parts.path.strip("/")
    if parts.scheme == "sqs":
        said.setdefault("region", parts.netloc or None)
    else:
        said["endpoint"] = f"{parts.scheme.removeprefix('sqs+')}://{parts.netloc}"
    try:
        settings = msgspec.convert(said, Settings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        known = ", ".join(Settings.__struct_fields__)
        raise ConfigError(f"{parts.scheme}://…: {error}; write {_SPELLINGS}, with the options {known}") from error
    return _checked(settings)


def _checked(settings: Settings) -> Settings:
    if not _PREFIX.fullmatch(settings.prefix) or "--" in settings.prefix:
        raise ConfigError(f"the prefix {settings.prefix!r} has to be up to 40 letters, digits and single '-'")
    if not 1 <= settings.poll <= _LONGEST_POLL:
        raise ConfigError(f"poll={settings.poll}: a long poll takes 1 to {_LONGEST_POLL} seconds")
    if not 16_384 <= settings.max_size <= _LARGEST:
        raise ConfigError(f"max_size={settings.max_size}: a message may have 16,384 to {_LARGEST:,} bytes")
    if settings.connections is not None and settings.connections < 1:
        raise ConfigError(f"connections={settings.connections}: without one nothing can be sent or settled")
    if settings.patience <= 0:
        raise ConfigError(f"patience={settings.patience}: it is a number of seconds above 0")
    if list(settings.bands) != sorted(set(settings.bands), reverse=True) or 0 not in settings.bands:
        raise ConfigError(f"bands={settings.bands}: they are priorities, the largest first, and 0 is one of them")
    if settings.fifo and len(settings.bands) > 1:
        raise ConfigError("FIFO queues keep one order: they have no bands")
    return settings
