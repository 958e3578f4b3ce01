"""What the URL says: which servers, as whom, and the few options that have a user."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from msgspec import Struct
from redis.asyncio.connection import Connection, UnixDomainSocketConnection, parse_url

from taskq.errors import ConfigError

Kind = Literal["single", "sentinel", "cluster"]
Host = tuple[str, int]

_PARTITIONS = 64

_SPELLINGS = (
    "redis://host:6379/0, rediss://…, unix:///path, redis+sentinel://host,host/service or redis+cluster://host,host"
)


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The options of ``redis://`` and its kin; every other option goes to the driver's connection."""

    namespace: str = "taskq"
    """Stands before every key: apps with namespaces of their own share a server."""
    max_size: int = 1 << 20
    """Bytes of a job's body."""
    dedup_window: float = 0.0
    """Seconds for which the id of an ended job is not added again; each such id is kept meanwhile."""
    wait_replicas: int = 0
    """How many replicas must have a job before its enqueue is answered."""
    wait_disk: bool = False
    """Whether it must be on the disk by then: of the server, and of so many replicas."""
    partitions: int = 1
    """Hash tags over which each queue is split, so that one queue can use several nodes of a cluster."""
    patience: float = 5.0
    """Seconds after which a server that does not answer counts as lost."""
    hot_wait: float = 0.0002
    """Seconds for which a process with nothing else to do stays awake for an answer; 0: it sleeps at once."""


class Target(Struct, frozen=True):
    """The servers a URL names, and how to connect to each."""

    kind: Kind
    hosts: Sequence[Host]
    service: str
    """What the sentinels call the master."""
    arguments: Mapping[str, Any]
    """Of the driver's connection, but for host and port."""
    sentinel_arguments: Mapping[str, Any]

    def sentinel(self, host: Host) -> Connection:
        """A connection to a sentinel that is not open yet."""
        arguments = dict(self.sentinel_arguments)
        made: Connection = arguments.pop("connection_class", Connection)(host=host[0], port=host[1], **arguments)
        return made

    def connection(self, host: Host | None = None) -> Connection | UnixDomainSocketConnection:
        """A connection that is not open yet."""
        arguments = dict(self.arguments)
        kind = arguments.pop("connection_class", Connection)
        if kind is not UnixDomainSocketConnection:
            arguments["host"], arguments["port"] = host or self.hosts[0]
        made: Connection | UnixDomainSocketConnection = kind(**arguments)
        return made

    @property
    def name(self) -> str:
        """For error messages: without a password."""
        if self.kind == "sentinel":
            return f"redis {self.service!r} behind sentinels at " + shown(self.hosts)
        where: str = self.arguments.get("path") or shown(self.hosts)
        return f"redis at {where}"


def read(url: str, options: Mapping[str, object]) -> tuple[Target, Settings]:
    """The servers a URL names and the settings. Raises ConfigError for what it cannot use."""
    parts = urlsplit(url)
    base, _, family = parts.scheme.partition("+")
    said: dict[str, object] = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    ours = {name: said.pop(name) for name in Settings.__struct_fields__ if name in said}
    sentinels = {name.removeprefix("sentinel_"): said.pop(name) for name in list(said) if name.startswith("sentinel_")}
    try:
        settings = msgspec.convert(ours, Settings, strict=False)
        target = _target(base, family, parts.netloc, parts.path, said, sentinels, settings.patience)
        target.connection()
        if target.kind == "sentinel":
            target.sentinel(target.hosts[0])
        elif sentinels:
            raise ValueError(f"sentinel_{next(iter(sentinels))} is for redis+sentinel:// alone")  # noqa: TRY301
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        known = ", ".join(Settings.__struct_fields__)
        raise ConfigError(f"{parts.scheme}://…: {error}; write {_SPELLINGS}, with the options {known}") from error
    if not 1 <= settings.partitions <= _PARTITIONS:
        raise ConfigError(f"partitions is at least 1 and at most {_PARTITIONS}: every look-up asks each of them")
    if (
        settings.max_size < 1
        or settings.dedup_window < 0
        or settings.wait_replicas < 0
        or settings.patience <= 0
        or settings.hot_wait < 0
    ):
        raise ConfigError("max_size and patience are above 0, dedup_window and wait_replicas at least 0")
    if not settings.namespace or not settings.namespace.replace("_", "a").replace("-", "a").isalnum():
        raise ConfigError(f"the namespace {settings.namespace!r} may hold letters, digits, '_' and '-' only")
    return target, settings


def _target(
    base: str,
    family: str,
    netloc: str,
    path: str,
    said: Mapping[str, object],
    sentinels: Mapping[str, object],
    patience: float,
) -> Target:
    kinds: dict[str, Kind] = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}
    if family not in kinds:
        raise ValueError(f"there is no +{family}")
    user, at, places = netloc.rpartition("@")
    hosts = [_host(place, 26379 if family == "sentinel" else 6379) for place in places.split(",")]
    service = ""
    if family == "sentinel":
        service, _, database = path.strip("/").partition("/")
        path = f"/{database}"
        if not service:
            raise ValueError("the path is the name under which the sentinels know the master")
    query = urlencode({name: str(value) for name, value in said.items()})
    arguments: dict[str, Any] = dict(parse_url(f"{base}://{user}{at}{'' if base == 'unix' else 'any'}{path}?{query}"))
    for name in ("host", "port", "decode_responses", "protocol", "max_connections"):
        arguments.pop(name, None)
    if base == "unix" and not arguments.get("path"):
        raise ValueError("the path is that of the socket")
    # The old protocol is enough for scripts, and servers that forbid HELLO know it.
    fixed = {"protocol": 2, "socket_timeout": patience}
    secured = {name: value for name, value in arguments.items() if name.startswith(("ssl_", "connection_class"))}
    asked = {**fixed, **secured, **sentinels}
    return Target(kinds[family], hosts, service, {**arguments, **fixed}, asked)


def _host(place: str, default: int) -> Host:
    # An address of version 6 stands in brackets.
    parts = urlsplit(f"//{place}")
    return (parts.hostname or "localhost", parts.port or default)


def shown(hosts: Sequence[Host]) -> str:
    """Addresses as they stand in messages."""
    return ",".join(f"{quote(host, safe=':')}:{port}" for host, port in hosts)
