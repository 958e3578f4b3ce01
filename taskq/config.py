"""Settings: the first found wins of constructor, environment, ``taskq.toml``, ``[tool.taskq]`` and default."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from taskq.defaults import Captured, NotNegative, Positive, QueueDefaults, check_defaults
from taskq.errors import ConfigError
from taskq.job import QUEUE_NAME
from taskq.pools import DEFAULT, Count, PoolSettings, check_patterns, check_pools
from taskq.webhook import Target


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that may be set from outside; seconds throughout."""

    url: str = "sqlite:///taskq.db"
    """Which backend carries the jobs, and where it is."""
    companion: str | None = None
    """The database that keeps what the broker at ``url`` cannot: results, unique keys, schedules and more, for SQS."""
    queues: tuple[str, ...] = ()
    """What a worker fetches from, the first one first: names, globs, and behind ``!`` what no glob is to take in; none:
    every queue its tasks name, and ``default``."""
    slots: Count = 100
    """Jobs a worker runs at once."""
    lag_target: Positive | None = None
    """While the event loop is later than this, a worker runs fewer jobs at once; None: as many as it has slots."""
    slots_min: Count = 1
    """Those it runs however much the loop lags, in each pool that has as many slots."""
    pools: Mapping[str, PoolSettings] = {}
    """Parts of a worker, each with queues and slots of its own; none: one part for all ``queues``."""
    brokers: Mapping[str, str] = {}
    """Names and URLs of more brokers; the pools say which queues are on them."""
    defaults: Mapping[str, QueueDefaults] = {}
    """By queue, or under ``*`` for all: options of its tasks, for those that do not say them."""
    threads: Count = 32
    """Sync handlers a worker runs at once."""
    processes: Count | None = None
    """CPU handlers a worker runs at once; None: one a core."""
    lease: Positive = 30.0
    """How long a delivery is ours without being extended: a dead worker's jobs wait this long."""
    grace: NotNegative = 25.0
    """How long running jobs may go on after a worker was asked to stop."""
    keep: NotNegative | None = None
    """How long outcomes are kept; None: an hour for tasks that return something, else not at all."""
    keep_dead: Positive | None = None
    """How long dead letters are kept; None: until somebody revives or purges them."""
    dead_count: Count | None = None
    """Dead letters that a queue keeps at most: of more the oldest are dropped, and an event tells; None: any number."""
    dead_size: Count | None = None
    """Bytes of calls and outcomes that a queue's dead letters have at most; None: any number."""
    strict: bool = False
    """Make ``app.check()``'s warnings errors."""
    notify: tuple[Target, ...] = ()
    """Who is told of tasks that fail: webhooks and Slack."""
    notify_window: Positive = 60.0
    """How long what is told of a task gathers for one message."""
    notify_queue: Annotated[str, Meta(pattern=QUEUE_NAME)] = "taskq.notify"
    """Where messages wait to be sent."""
    on_lost_contact: Literal["cancel", "finish"] = "cancel"
    """What becomes of running jobs whose leases can no longer be extended."""
    stall_warning: Positive = 2.0
    """How long a worker's event loop may stand still before that is reported."""
    stall_limit: Positive = 600.0
    """How long before its leases are let go."""
    growth_warning: Annotated[int, Meta(ge=0)] = 10_000
    """Runs over which a worker's memory may grow all along until that is reported; 0: nobody looks."""
    spool: str | None = None
    """A file in which deferred jobs wait while the broker is out of reach; None: deferring fails then."""
    spool_size: Count = 64 << 20
    """Bytes of jobs it holds at most."""
    spool_age: Positive = 86_400.0
    """How long its oldest job may wait before it takes no more."""
    outbox: str | None = None
    """The database, when it is not the broker's, in whose transactions jobs are deferred."""
    capture: Captured = 0
    """Bytes of what each job logs and prints that are kept, of tasks that do not say it themselves."""
    payloads: str | None = None
    """Where calls are kept that are too large for the broker; None: they are refused."""
    payload_size: Count = 64 << 20
    """Bytes that such a call may have."""
    payload_keep: Positive = 30 * 86_400.0
    """How long one is kept beyond the moment at which its job is due, unless the job ends before."""
    history: NotNegative | None = None
    """How long it is kept what became of jobs, for ``taskq history``; 0: nothing is counted; None: 72 hours where
    ``taskq worker`` runs, nothing elsewhere."""
    build: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    """What the running code calls itself, told with each attempt and worker; None: in ``taskq worker`` the version of
    the app's package, if it has one."""
    schedules: tuple[dict[str, Any], ...] = ()
    """Tasks to run again and again: ``task``, ``when``, ``name``, ``args``, and the options of a schedule."""

    @property
    def urls(self) -> Mapping[str, str]:
        """Of every broker, by its name."""
        return {DEFAULT: self.url, **self.brokers}


_TABLES: Mapping[str, type[Struct]] = {"pools": PoolSettings, "defaults": QueueDefaults}
"""Settings that are tables of tables, and what each of these may say."""


class Config(Struct, frozen=True):
    """Settings, and where each came from."""

    settings: Settings
    sources: Mapping[str, str]


def load_config(given: Mapping[str, Any], environ: Mapping[str, str], directory: Path) -> Config:
    """The settings in force. Raises ConfigError for an unknown name or an unfit value, naming where it was found."""
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.__struct_fields__, "default")
    for source, found in (
        ("[tool.taskq] in pyproject.toml", _table(directory / "pyproject.toml", "tool", "taskq")),
        ("taskq.toml", _table(directory / "taskq.toml")),
        ("environment", _from_environment(environ)),
        ("App(...)", dict(given)),
    ):
        for name, value in found.items():
            values[name] = _checked(name, value, source)
            sources[name] = source
    settings = Settings(**values)
    check_pools(settings.pools, settings.brokers)
    if settings.queues:
        check_patterns(f"setting 'queues' ({sources['queues']})", settings.queues)
    check_defaults(settings.defaults)
    if settings.pools and settings.queues:
        raise ConfigError(
            f"settings 'queues' ({sources['queues']}) and 'pools' ({sources['pools']}) both say what a worker fetches: "
            "drop one of them"
        )
    return Config(settings, sources)


def _checked(name: str, value: object, source: str) -> Any:
    _refuse_unknown(name, Settings, source)
    # Of a table each entry by itself first, or nothing would tell which one does not fit.
    for key, part in _entries(value).items():
        for inner in _entries(part) if name in _TABLES else ():
            _refuse_unknown(inner, _TABLES[name], source, f"{name}.{key}.")
        _converted(name, {key: part}, source, f".{key}")
    return getattr(_converted(name, value, source), name)


def _refuse_unknown(name: str, known: type[Struct], source: str, table: str = "") -> None:
    names = known.__struct_fields__
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        raise ConfigError(f"unknown setting {table + name!r} ({source}); {hint}")


def _entries(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _converted(name: str, value: object, source: str, entry: str = "") -> Settings:
    try:
        # Text from the environment is converted; values of a language with types are only checked.
        return msgspec.convert({name: value}, Settings, strict=source != "environment")
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        where = path.strip("`$.").replace("[...]", entry, 1) if entry else name
        raise ConfigError(f"setting {where!r} ({source}): {message}") from error


def _table(path: Path, *keys: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import tomllib  # here, because most processes read no file

    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    for key in keys:
        table = cast("dict[str, Any]", table).get(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{path.name}: {key} has to be a table of settings")
    return cast("dict[str, Any]", table)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """``TASKQ_SLOTS=50`` sets ``slots``; other names that begin so are somebody else's."""
    found: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        value = environ.get(f"TASKQ_{name.upper()}")
        if value is not None:
            found[name] = _read(name, value)
    return found


def _read(name: str, text: str) -> object:
    """Text of the environment as what the other sources hold."""
    if name == "queues":
        return tuple(filter(None, text.split(",")))
    if name in ("pools", "brokers", "defaults"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ConfigError(f"setting {name!r} (environment): give a JSON object: {error}") from error
    return text
