"""The statements and the tables: nothing is missing, nothing is left over, and the plans use the indexes."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import anyio
import asyncpg
import pytest
from taskq_postgres import connect, migrate, queries

from taskq.broker import Migration
from taskq.errors import ConfigError, SchemaOutdated
from taskq.job import Job
from tests.backends.postgres.conftest import Opener, plain
from tests.servers.process import Process

GOLDEN = Path(__file__).with_name("schema.txt")
NAMES = queries.Queries.__struct_fields__
JOBS = 50_000

COLUMNS = """
SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
  || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 ORDER BY c.relname, a.attnum
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 ORDER BY indexname"
FUNCTIONS = """
SELECT proname || '(' || pg_get_function_identity_arguments(oid) || ')'
  || coalesce(' ' || pg_get_function_result(oid), '') || coalesce(' SET ' || array_to_string(proconfig, ', '), '')
FROM pg_proc WHERE pronamespace = $1::regnamespace ORDER BY proname
"""


async def described(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> str:
    lines = [line for query in (COLUMNS, INDEXES, FUNCTIONS) for (line,) in await connection.fetch(query, schema)]
    return "\n".join(lines).replace(schema, "taskq") + "\n"


def test_every_statement_has_its_file_and_every_file_its_statement() -> None:
    found = {file.name.removesuffix(".sql") for file in (files("taskq_postgres") / "sql").iterdir()}
    assert found == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_says_first_what_it_does(name: str) -> None:
    assert getattr(queries.load("taskq"), name).startswith("-- ")


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["Taskq", "1st", "a b", 'a"b', "a;b", "", "a" * 41, "a\n"])
async def test_no_other_name_is_written_into_a_statement(name: str) -> None:
    with pytest.raises(ValueError, match=r"\A" + re.escape(name)):
        queries.load(name)
    with pytest.raises(ConfigError, match="lower-case letters"):
        async with connect("postgresql://nowhere/", schema=name):
            pass


@pytest.mark.anyio
class TestSchema:
    async def test_the_migrations_give_the_golden_schema(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        await migrate.apply(direct, schema)
        assert await described(direct, schema) == GOLDEN.read_text()

    async def test_every_statement_prepares(self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str) -> None:
        await migrate.apply(direct, schema)
        sql = queries.load(schema)
        for name in NAMES:
            assert await direct.prepare(getattr(sql, name))

    async def test_a_schema_that_is_not_there_names_the_remedy(self, opened: Opener) -> None:
        with pytest.raises(SchemaOutdated, match=r"lacks 001_jobs, .*: run `taskq migrate 'postgresql://postgres@127"):
            async with opened(migrate=False):
                pass

    async def test_a_migrated_schema_opens_without_the_right_to_create(self, opened: Opener) -> None:
        async with opened():
            pass
        async with opened(migrate=False) as backend:
            assert list(await backend.broker.fetch(["q"], 1, lease=1, wait=0)) == []

    async def test_a_newer_schema_is_fine_for_an_old_worker(
        self, opened: Opener, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        async with opened():
            await direct.execute(f"INSERT INTO {schema}.migrations (version) VALUES (999)")  # noqa: S608
        async with opened(migrate=False):
            pass

    async def test_processes_that_migrate_at_once_do_it_once(self, postgres: Process, schema: str) -> None:
        async with plain(postgres.url) as one, plain(postgres.url) as two:
            assert await migrate.plan(one, schema) == migrate.steps(schema)
            assert await migrate.version(one, schema) == 0
            transaction = one.transaction()
            await transaction.start()
            await migrate.apply(one, schema)
            done: list[list[Migration]] = []

            async def apply() -> None:
                done.append(await migrate.apply(two, schema))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(apply)
                await anyio.wait_all_tasks_blocked()
                await transaction.commit()
            assert done == [[]]
            assert await migrate.plan(two, schema) == []

    async def test_the_printed_script_does_what_a_migration_does(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        await direct.execute(migrate.sql(schema, await migrate.plan(direct, schema)))
        assert await migrate.plan(direct, schema) == []
        assert await described(direct, schema) == GOLDEN.read_text()


@pytest.mark.anyio
class TestPlans:
    async def test_no_function_that_narrows_its_plans_is_compiled(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        # Before PostgreSQL 18 what is switched off counts as so costly that each call would be compiled first.
        await migrate.apply(direct, schema)
        narrowed = await direct.fetch(
            "SELECT proconfig FROM pg_proc WHERE pronamespace = $1::regnamespace AND proconfig IS NOT NULL", schema
        )
        assert len(narrowed) > 5
        assert all("jit=off" in row["proconfig"] for row in narrowed)

    @pytest.mark.parametrize("marks", [None, '{"q1": {"reached": 1, "rungs": [[6, 49900, 0]]}}'])
    async def test_a_fetch_neither_sorts_nor_passes_over_anything(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str, marks: str | None
    ) -> None:
        await _fill(direct, schema)
        # With marks: what is above the priority they know, what of it is behind its position, and what is below.
        plans = await _plans(direct, queries.load(schema).fetch, ["q1"], 100, 30.0, 1, marks, None, None, False)
        fronts = [plan for plan in plans if "found" in plan and "'ready'" in plan]
        assert len(fronts) == (1 if marks is None else 3)
        for front in fronts:
            assert f"Index Scan using jobs_ready on {schema}.jobs" in front
            assert re.search(r"Rows Removed by Filter|Seq Scan|Hash|Merge|Sort", front) is None
        assert marks is None or "ROW(jobs.due, jobs.seq) >= ROW(" in fronts[1]
        (claim,) = [plan for plan in plans if "held_until = CASE" in plan]
        # What the update answers has an order only by this: each place in turn leads to its row.
        assert re.search(r"Nested Loop .*Function Scan on front .*Tid Scan on", claim, re.DOTALL)
        assert re.search(r"Rows Removed by Filter|Seq Scan|Hash|Merge", claim) is None
        look, promotion = [plan for plan in plans if "jobs_timed" in plan]
        assert "found" in promotion
        assert re.search("Rows Removed by Filter|Seq Scan|Sort", look + promotion) is None

    async def test_a_plan_made_for_an_empty_table_does_not_stay(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        await migrate.apply(direct, schema)
        statement = await direct.prepare(queries.load(schema).fetch)
        for _ in range(10):
            await statement.fetch(["q1"], 100, 30.0, 1, None, None, None, False)
        await _fill(direct, schema)
        plans = await _plans(direct, queries.load(schema).fetch, ["q1"], 100, 30.0, 1, None, None, None, False)
        assert not [plan for plan in plans if "Seq Scan" in plan]

    async def test_a_receipt_leads_straight_to_its_row(
        self, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
    ) -> None:
        await _fill(direct, schema)
        sql = queries.load(schema)
        receipts = [["q1"] * 3, ["000001", "000004", "000007"], [1, 1, 1]]
        endings = [["ack", "nack", "dead"], [b""] * 3, [1.0] * 3, [True] * 3]
        for plans in (
            await _plans(direct, sql.settle, *receipts, None, None, None, None, None, 0.0, False),
            await _plans(direct, sql.settle, *receipts, *endings, None, 0.0, False),
            await _plans(direct, sql.extend, *receipts, None, 30.0),
        ):
            assert any("Index Scan using jobs_id" in plan for plan in plans)
            ours = [plan for plan in plans if f"{schema}.jobs" in plan]
            assert not [plan for plan in ours if re.search(r"Seq Scan on .*jobs|Hash Join|Merge Join", plan)]


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> None:
    """Jobs in every state, most of them waiting."""
    await migrate.apply(connection, schema)
    await connection.execute(
        f"""
        INSERT INTO {schema}.jobs (seq, due, priority, state, queue, id, task, body)
        SELECT n, n, n % 7, CASE n % 10 WHEN 0 THEN 'later' WHEN 1 THEN 'leased' WHEN 2 THEN 'dead' ELSE 'ready' END,
          'q' || n % 3, lpad(n::text, 6, '0'), 'task', ''
        FROM generate_series(1, {JOBS}) AS n;
        UPDATE {schema}.jobs SET due = due + 1e10 WHERE state IN ('later', 'leased') AND seq > 10;
        ANALYZE {schema}.jobs;
        """  # noqa: S608
    )


async def _plans(connection: "asyncpg.Connection[asyncpg.Record]", statement: str, *arguments: object) -> Sequence[str]:
    """What the server says of each statement that this one carries out inside its function."""
    await connection.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
        "SET auto_explain.log_analyze = on; SET auto_explain.log_verbose = on;"
        "SET auto_explain.log_parameter_max_length = 0; SET client_min_messages = log"
    )
    said: list[str] = []

    def hear(_: object, message: asyncpg.PostgresLogMessage) -> None:
        said.append(f"{message}")

    connection.add_log_listener(hear)
    await connection.fetch(statement, *arguments)
    await connection.execute("SET auto_explain.log_min_duration = -1")
    connection.remove_log_listener(hear)
    return said


@pytest.mark.anyio
async def test_the_documented_function_enqueues_from_any_client(
    opened: Opener, direct: "asyncpg.Connection[asyncpg.Record]", schema: str
) -> None:
    async with opened() as backend:
        rows = await direct.fetch(
            f"SELECT * FROM {schema}.enqueue(ARRAY['mail'], ARRAY['a'], ARRAY['send'], ARRAY['{{}}'::bytea])"  # noqa: S608
        )
        assert rows == []
        (delivery,) = await backend.broker.fetch(["mail"], 1, lease=30, wait=10)
        assert delivery.job == Job(id="a", task="send", body=b"{}", queue="mail")
