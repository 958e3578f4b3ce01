"""Numbered steps that bring a schema to this version: forward only, in one transaction, safe while old workers run."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from taskq.broker import Migration
from taskq.errors import SchemaOutdated
from taskq_postgres import settings
from taskq_postgres.faults import translating
from taskq_postgres.lanes import Connection, open_connection
from taskq_postgres.queries import placed
from taskq_postgres.settings import Settings

# Who may not create schemas may bring one up to date that is there: IF NOT EXISTS would ask for the right all the same.
_SCHEMA = """DO $$ BEGIN
  IF to_regnamespace('{schema}') IS NULL THEN
    CREATE SCHEMA {schema};
  END IF;
END $$;"""
_DONE = "INSERT INTO {schema}.migrations (version) VALUES ($1)"


class PostgresMigrations:
    """The schema that a URL names."""

    def __init__(self, url: str) -> None:
        self._address, self._settings = settings.read(url, {})

    async def lacking(self) -> list[Migration]:
        return await self._with(plan)

    async def apply(self) -> list[Migration]:
        return await self._with(apply)

    def script(self, steps: Sequence[Migration]) -> str:
        return sql(self._settings.schema, steps)

    def roles(self) -> str:
        return roles(self._settings.schema)

    async def _with(self, step: Callable[[Connection, str], Awaitable[list[Migration]]]) -> list[Migration]:
        with translating(self._address.shown):
            connection = await open_connection(self._address, self._settings, pooled=True)
            try:
                return await step(connection, self._settings.schema)
            finally:
                await connection.close(timeout=2)


def migrations(url: str) -> PostgresMigrations:
    """What ``taskq migrate`` works with."""
    return PostgresMigrations(url)


def steps(schema: str) -> list[Migration]:
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
    return [step for step in steps(schema) if step.number > has]


def sql(schema: str, lacking: Sequence[Migration]) -> str:
    """A script that carries out these steps, for whoever runs it by hand."""
    said = [placed(_SCHEMA, schema)]
    for step in lacking:
        said.append(f"-- {step.name}\n{step.sql}")
        said.append(placed(f"{_DONE.replace('$1', str(step.number))};", schema))
    return "\n".join(["BEGIN;", *said, "COMMIT;", ""])


def roles(schema: str) -> str:
    """A script that gives the schema three roles, each with what it needs and no more."""
    script = (files("taskq_postgres") / "roles.sql").read_text("utf-8")
    return placed(script.replace("{role}", schema), schema)


async def apply(connection: Connection, schema: str) -> list[Migration]:
    """Carry out the steps that the schema lacks. Processes that do it at once wait for each other."""
    if not await plan(connection, schema):
        return []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{schema} migrations")
        await connection.execute(placed(_SCHEMA, schema))
        lacking = await plan(connection, schema)
        for step in lacking:
            await connection.execute(step.sql)
            await connection.execute(placed(_DONE, schema), step.number)
    return lacking


async def check(connection: Connection, schema: str, shown: str) -> None:
    """Raise SchemaOutdated for a schema that lacks a step. A newer one is fine: its steps are safe for us."""
    if lacking := await plan(connection, schema):
        names = ", ".join(step.name for step in lacking)
        url = shown if schema == Settings().schema else f"{shown}?schema={schema}"
        raise SchemaOutdated(f"{shown}: schema {schema} lacks {names}: run `taskq migrate '{url}'`, as a user who may")


def _step(name: str, sql: str) -> Migration:
    return Migration(int(name.partition("_")[0]), name, sql)
