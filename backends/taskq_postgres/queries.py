"""The SQL of this backend: one statement a file in ``sql/``, read once when the backend opens."""

from importlib.resources import files

from msgspec import Struct

from taskq_postgres.settings import SCHEMA_NAME


class Queries(Struct, frozen=True):
    """Each statement under its file's name."""

    add: str
    cancel: str
    deployment: str
    discard: str
    discard_and_settle: str
    enqueue: str
    enqueue_ahead: str
    extend: str
    fetch: str
    find: str
    health: str
    key: str
    leave: str
    list_jobs: str
    live: str
    notify: str
    outcomes: str
    purge: str
    record: str
    revive: str
    settle: str
    stats: str
    swap: str
    sweep: str
    timeline: str


def load(schema: str) -> Queries:
    """Read every statement, for the tables of one schema."""
    folder = files("taskq_postgres") / "sql"
    names = Queries.__struct_fields__
    return Queries(**{name: placed((folder / f"{name}.sql").read_text("utf-8"), schema) for name in names})


def placed(sql: str, schema: str) -> str:
    """The SQL with its schema written in: the name is checked, for nothing could quote it everywhere."""
    if not SCHEMA_NAME.match(schema):
        raise ValueError(schema)
    return sql.replace("{channel}", channel(schema)).replace("{schema}", f'"{schema}"')


def channel(schema: str) -> str:
    """What its backends listen to."""
    return f"taskq_{schema}"
