"""``taskq migrate``, and what each role of the schema may do."""

import re
from pathlib import Path

import anyio
import asyncpg
import pytest
from taskq_postgres import connect, migrate

from taskq.errors import BrokerRejected, SchemaOutdated
from taskq.job import Ack, Job
from taskq.testing.deployment import a_job, add, names, ref, take
from tests.backends.postgres.conftest import Opener, plain
from tests.cli.shell import Shell
from tests.servers.process import Process

STEPS = [step.name for step in migrate.steps("taskq")]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_the_command_plans_prints_and_carries_out(shell: Shell, postgres: Process, schema: str) -> None:
    url = f"{postgres.url}?schema={schema}"
    assert shell.run("migrate", url, "--plan").out.split() == STEPS
    script = shell.run("migrate", url, "--sql").out
    assert script.startswith("BEGIN;")
    # It has done nothing so far.
    assert shell.run("migrate", TASKQ_URL=url).out.split() == STEPS
    again = shell.run("migrate", url)
    assert (again.out, again.err) == ("", "the schema is up to date\n")
    assert shell.run("migrate", url, "--plan").out == ""
    assert shell.run("stats", "--url", url).out == f"No queue holds a job at {url} (--url).\n"


def test_a_backend_that_keeps_itself_up_to_date_needs_no_migrations(shell: Shell) -> None:
    assert shell.run("migrate", "memory://").err == "memory needs no migrations\n"
    assert "no backend answers to nowhere://" in shell.run("migrate", "nowhere://", code=2).err


def test_a_server_that_is_not_there_may_be_there_later(shell: Shell) -> None:
    assert "cannot be reached" in shell.run("migrate", "postgresql://postgres@127.0.0.1:1/none", code=3).err


def test_a_worker_on_an_old_schema_names_the_command_that_helps(shell: Shell, postgres: Process, schema: str) -> None:
    url = f"{postgres.url}?schema={schema}"
    said = shell.run("stats", "--url", url, code=1).err
    assert f"run `taskq migrate '{url}'`" in said


@pytest.mark.anyio
class TestRoles:
    @pytest.fixture
    async def url(self, postgres: Process, schema: str, anyio_backend: str) -> str:  # noqa: ARG002
        """Of the server, for a user to be named; the schema has its roles, and each a user."""
        async with plain(postgres.url) as admin:
            await migrate.apply(admin, schema)
            await admin.execute(migrate.roles(schema))
            await admin.execute(migrate.roles(schema))
            for role in ("migrate", "enqueue", "work"):
                await admin.execute(f"CREATE ROLE {schema}_{role}_user LOGIN IN ROLE {schema}_{role}")
        return postgres.url.replace("postgres@", f"{schema}_{{}}_user@")

    async def test_one_that_enqueues_can_do_nothing_else(self, url: str, opened: Opener, schema: str) -> None:
        async with connect(url.format("enqueue"), schema=schema) as backend, opened(migrate=False) as witness:
            await add(backend.broker, a_job("q", unique="k", group="g"), a_job("q", "b", delay=60))
            (answer,) = await backend.broker.enqueue([a_job("q", "c", unique="k", on_conflict="replace")])
            assert (answer.id, answer.added) == (ref(a_job("q")).id, False)
            admin, results, store = backend.admin, backend.results, backend.store
            assert admin is not None and results is not None and store is not None  # noqa: PT018 for the lambdas
            for call in (
                lambda: backend.broker.fetch(["q"], 1, lease=1, wait=0),
                lambda: admin.lookup(ref(a_job("q"))),
                lambda: admin.cancel([ref(a_job("q"))]),
                lambda: results.outcome(ref(a_job("q")), wait=0),
                lambda: store.swap("key", None, b""),
            ):
                with pytest.raises(BrokerRejected, match="lacks a privilege"):
                    await call()
            assert names(await take(witness.broker, "q")) == ["a"]

    async def test_one_that_works_does_all_but_change_the_schema(self, url: str, schema: str) -> None:
        async with connect(url.format("work"), schema=schema) as backend:
            await add(backend.broker, a_job("q"), a_job("q", "b", group="g"))
            deliveries = await take(backend.broker, "q", 2)
            await backend.broker.extend([delivery.receipt for delivery in deliveries], 60)
            assert all(await backend.broker.settle([Ack(delivery.receipt, b"1", 60) for delivery in deliveries]))
            assert backend.results is not None
            assert await backend.results.outcome(ref(a_job("q")), wait=0) == b"1"
            assert backend.store is not None
            assert await backend.store.swap("key", None, b"", ttl=0.01)
            assert await backend.store.add("other", ["member"])
            assert backend.admin is not None
            await backend.admin.stats()
        async with plain(url.format("work")) as connection:
            assert await connection.fetchval(f'SELECT "{schema}".sweep(10)') >= 0
            for statement in ("TRUNCATE {}.jobs", "DROP TABLE {}.jobs", "CREATE TABLE {}.mine ()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement.format(schema))

    async def test_one_that_migrates_brings_the_schema_forward_for_the_others(self, url: str, schema: str) -> None:
        async with plain(url.format("migrate")) as connection:
            (last,) = migrate.steps(schema)[-1:]
            await connection.execute(f"DELETE FROM {schema}.migrations WHERE version = {last.number}")  # noqa: S608
            for function in re.findall(r"CREATE FUNCTION \S+?(\w+)\(", last.sql):
                await connection.execute(f"DROP FUNCTION {schema}.{function}")
            with pytest.raises(SchemaOutdated, match=last.name):
                async with connect(url.format("work"), schema=schema):
                    pass
            assert await migrate.apply(connection, schema) == [last]
        async with connect(url.format("work"), schema=schema) as backend:
            assert backend.store is not None
            assert await backend.store.swap("key", None, b"")

    def test_the_command_prints_the_script_without_a_server(self, shell: Shell) -> None:
        printed = shell.run("migrate", "postgresql://nobody@nowhere.invalid/none?schema=queue", "--roles").out
        assert printed == migrate.roles("queue")


@pytest.mark.anyio
async def test_workers_go_on_while_a_step_is_carried_out(opened: Opener, postgres: Process, schema: str) -> None:
    async with opened() as backend, plain(postgres.url) as connection:
        (last,) = migrate.steps(schema)[-1:]
        await connection.execute(f"DELETE FROM {schema}.migrations WHERE version = {last.number}")  # noqa: S608
        step = last.sql.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        async with connection.transaction():
            await connection.execute(step)
            # It is not committed: whoever waited for it would wait for ever.
            with anyio.fail_after(20):
                await backend.broker.enqueue([Job(id="a", task="t", body=b"", queue="q")])
                (delivery,) = await backend.broker.fetch(["q"], 1, lease=60, wait=0)
                assert list(await backend.broker.settle([Ack(delivery.receipt)])) == [True]
                assert backend.store is not None
                assert await backend.store.swap("key", None, b"")
