"""What the URL says: which server, which schema, and the few options that have a user."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError

SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}\Z")
"""The only thing of a user's that is written into a statement."""

DRIVER_OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "dbname", "database", "application_name"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("target_session_attrs", "krbsrvname", "gsslib"),
    }
)
"""What the driver understands in a URL; the rest of its query string is ours."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The options of ``postgresql://``."""

    schema: str = "taskq"
    """Where everything is kept."""
    migrate: bool = False
    """Bring the schema up to date when the backend opens; needs the right to create."""
    connections: int = 2
    """For the verbs. A listener, the lease extender and transactions have one each beside them."""
    command_timeout: float = 10.0
    """Seconds the server has for a statement."""
    connect_timeout: float = 10.0
    """Seconds it has for a new connection."""
    pooled: bool | None = None
    """A pooler such as PgBouncer is in between: nothing of a session is used. Found out when not said."""
    listen_url: str | None = None
    """A direct way to the server behind a pooler, for LISTEN; without one, fetches poll each second."""
    max_size: int = 1 << 20
    """Bytes of a job's body."""
    dedup_window: float = 0.0
    """Seconds for which the id of an ended job is not added again; each such id is a row meanwhile."""


class Address(Struct, frozen=True):
    """Where the server is, in the driver's own terms and without them."""

    url: str
    """With the password: for the driver alone."""
    shown: str
    """Without it: for messages."""


def read(url: str, options: Mapping[str, object]) -> tuple[Address, Settings]:
    """The server a URL names and its settings. Raises ConfigError for what it cannot use."""
    parts = urlsplit(url)
    shown = parts._replace(netloc=re.sub(r":[^@:]*@", "@", parts.netloc), query="").geturl()
    if parts.scheme not in ("postgresql", "postgres") or parts.fragment:
        raise ConfigError(f"{shown!r} names no PostgreSQL: write postgresql://user@host/database")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    drivers = {name: value for name, value in query.items() if name in DRIVER_OPTIONS}
    said: dict[str, object] = {**{name: query[name] for name in query.keys() - drivers.keys()}, **options}
    known = ", ".join(Settings.__struct_fields__)
    unknown = ", ".join(sorted(said.keys() - set(Settings.__struct_fields__)))
    if unknown:
        raise ConfigError(f"{shown!r}: unknown option {unknown}; postgresql knows {known}, and the driver's own")
    try:
        settings = msgspec.convert(said, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{shown!r}: {error}; postgresql knows {known}") from error
    if not SCHEMA_NAME.match(settings.schema):
        raise ConfigError(
            f"{shown!r}: schema {settings.schema!r} is not of lower-case letters, digits and _ (40 at most)"
        )
    if min(settings.connections, settings.max_size) < 1 or settings.dedup_window < 0:
        raise ConfigError(f"{shown!r}: connections and max_size are at least 1, dedup_window at least 0")
    if min(settings.command_timeout, settings.connect_timeout) <= 0:
        raise ConfigError(f"{shown!r}: command_timeout and connect_timeout are more than 0")
    return Address(parts._replace(query=urlencode(drivers)).geturl(), shown), settings
