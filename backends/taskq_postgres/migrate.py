"""Numbered steps that bring a schema to this version: forward only, in one transaction, safe while old workers run."""

from collections.abc import Sequence
from importlib.resources import files

from msgspec import Struct

from taskq.errors import SchemaOutdated
from taskq_postgres.lanes import Connection
from taskq_postgres.queries import placed

_DONE = "INSERT INTO {schema}.migrations (version) VALUES ($1)"


class Migration(Struct, frozen=True):
    """One step."""

    number: int
    name: str
    sql: str


def migrations(schema: str) -> list[Migration]:
    """Every step, in order, for the tables of one schema."""
    folder = files("taskq_postgres") / "migrations"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [_step(file.name.removesuffix(".sql"), placed(file.read_text("utf-8"), schema)) for file in found]


async def version(connection: Connection, schema: str) -> int:
    """The newest step that the schema has; 0 for a schema that is not there."""
    if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".migrations') is None:
        return 0
    found: int = await connection.fetchval(placed("SELECT coalesce(max(version), 0) FROM {schema}.migrations", schema))
    return found


async def plan(connection: Connection, schema: str) -> list[Migration]:
    """The steps that the schema lacks."""
    has = await version(connection, schema)
    return [step for step in migrations(schema) if step.number > has]


def sql(schema: str, steps: Sequence[Migration]) -> str:
    """A script that carries out these steps, for whoever runs it by hand."""
    said = [placed("CREATE SCHEMA IF NOT EXISTS {schema};", schema)]
    for step in steps:
        said.append(f"-- {step.name}\n{step.sql}")
        said.append(placed(f"{_DONE.replace('$1', str(step.number))};", schema))
    return "\n".join(["BEGIN;", *said, "COMMIT;", ""])


async def apply(connection: Connection, schema: str) -> list[Migration]:
    """Carry out the steps that the schema lacks. Processes that do it at once wait for each other."""
    if not await plan(connection, schema):
        return []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{schema} migrations")
        await connection.execute(placed("CREATE SCHEMA IF NOT EXISTS {schema}", schema))
        steps = await plan(connection, schema)
        for step in steps:
            await connection.execute(step.sql)
            await connection.execute(placed(_DONE, schema), step.number)
    return steps


async def check(connection: Connection, schema: str, shown: str) -> None:
    """Raise SchemaOutdated for a schema that lacks a step. A newer one is fine: its steps are safe for us."""
    if lacking := await plan(connection, schema):
        names = ", ".join(step.name for step in lacking)
        raise SchemaOutdated(f"{shown}: schema {schema} lacks {names}: run `taskq migrate {shown}`")


def _step(name: str, sql: str) -> Migration:
    return Migration(int(name.partition("_")[0]), name, sql)
