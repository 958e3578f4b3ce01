"""A caller's transaction, of whichever library: what is deferred in it exists with its commit, or never did."""

import inspect
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, closing, contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import asyncpg
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
from psycopg.conninfo import conninfo_to_dict

from taskq import App
from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError
from taskq.job import Ack, Job
from taskq.testing import deferred
from taskq.testing.deployment import take
from tests.backends.postgres.conftest import Opener
from tests.servers import postgres as postgresql
from tests.servers.process import Process

# They have no types.
django: Any = import_module("django")
django_conf: Any = import_module("django.conf")
django_db: Any = import_module("django.db")

# What a caller holds: the object given to tx=, and how its library executes, commits and rolls back.
Held: TypeAlias = SimpleNamespace
Open: TypeAlias = Callable[[str], AbstractAsyncContextManager[Held]]
OpenBlocking: TypeAlias = Callable[[str], AbstractContextManager[Held]]


@asynccontextmanager
async def of_asyncpg(url: str) -> AsyncGenerator[Held]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield Held(tx=connection, execute=connection.execute, commit=transaction.commit, rollback=transaction.rollback)
    await connection.close()


@asynccontextmanager
async def of_a_pool(url: str) -> AsyncGenerator[Held]:
    async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as lent:
        transaction = lent.transaction()
        await transaction.start()
        yield Held(tx=lent, execute=lent.execute, commit=transaction.commit, rollback=transaction.rollback)


@asynccontextmanager
async def of_psycopg(url: str) -> AsyncGenerator[Held]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Held(tx=connection, execute=connection.execute, commit=connection.commit, rollback=connection.rollback)


@contextmanager
def of_psycopg_without_await(url: str) -> Generator[Held]:
    with psycopg.connect(url) as connection:
        yield Held(tx=connection, execute=connection.execute, commit=connection.commit, rollback=connection.rollback)


@contextmanager
def of_django(url: str) -> Generator[Held]:
    """What Django hands out inside ``atomic()``: its own cursors, its own adapters, autocommit switched to and fro."""
    if not django_conf.settings.configured:
        django_conf.settings.configure(LOGGING_CONFIG=None)
        django.setup()
    parts = conninfo_to_dict(url)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"], "USER": parts["user"]}
    databases = django_db.ConnectionHandler({"default": {**database, "HOST": parts["host"], "PORT": parts["port"]}})
    wrapper: Any = databases["default"]
    wrapper.set_autocommit(False)

    def execute(sql: str) -> None:
        with wrapper.cursor() as cursor:
            cursor.execute(sql)

    with closing(wrapper):
        yield Held(tx=wrapper.connection, execute=execute, commit=wrapper.commit, rollback=wrapper.rollback)


def of_alchemy(driver: str, *, session: bool) -> Open:
    """An AsyncSession or AsyncConnection."""

    @asynccontextmanager
    async def opened(url: str) -> AsyncGenerator[Held]:
        engine = sqlalchemy.ext.asyncio.create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
        made: Any = sqlalchemy.ext.asyncio.AsyncSession(engine) if session else engine.connect()
        async with made as subject:

            async def execute(sql: str) -> None:
                await subject.execute(sqlalchemy.text(sql))

            yield Held(tx=subject, execute=execute, commit=subject.commit, rollback=subject.rollback)
        await engine.dispose()

    return opened


def of_alchemy_without_await(*, session: bool) -> OpenBlocking:
    """A Session or Connection."""

    @contextmanager
    def opened(url: str) -> Generator[Held]:
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        made: Any = sqlalchemy.orm.Session(engine) if session else engine.connect()
        with made as subject:

            def execute(sql: str) -> None:
                subject.execute(sqlalchemy.text(sql))

            yield Held(tx=subject, execute=execute, commit=subject.commit, rollback=subject.rollback)
        engine.dispose()

    return opened


AWAITED: Mapping[str, Open] = {
    "asyncpg": of_asyncpg,
    "asyncpg-pool": of_a_pool,
    "psycopg": of_psycopg,
    "alchemy-session-asyncpg": of_alchemy("asyncpg", session=True),
    "alchemy-connection-asyncpg": of_alchemy("asyncpg", session=False),
    "alchemy-session-psycopg": of_alchemy("psycopg", session=True),
    "alchemy-connection-psycopg": of_alchemy("psycopg", session=False),
}
BLOCKING: Mapping[str, OpenBlocking] = {
    "psycopg-sync": of_psycopg_without_await,
    "alchemy-session-sync": of_alchemy_without_await(session=True),
    "alchemy-connection-sync": of_alchemy_without_await(session=False),
}
KINDS = [*AWAITED, *BLOCKING]


@asynccontextmanager
async def holding(kind: str, url: str) -> AsyncGenerator[Held]:
    """Whichever of them it is."""
    if kind in AWAITED:
        async with AWAITED[kind](url) as held:
            yield held
    else:
        with BLOCKING[kind](url) as held:
            yield held


async def maybe(answer: Awaitable[object] | object) -> None:
    """Await what is to be awaited."""
    if inspect.isawaitable(answer):
        await answer


@pytest.fixture
def app(postgres: Process, schema: str) -> App:
    app = App(f"{postgres.url}?schema={schema}&migrate=1")

    @app.task(name="note")
    async def note(text: str) -> str:
        return text

    return app


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
async def test_jobs_are_there_with_the_commit_and_never_were_without(
    app: App, postgres: Process, kind: str, commits: bool
) -> None:
    note = app.find_task("note")
    async with app, holding(kind, postgres.url) as held:
        table = f"rows_{uuid4().hex}"
        await maybe(held.execute(f"CREATE TABLE {table} (n integer)"))
        inside = note.options(tx=held.tx)
        await inside.options(headers={"é": "'%s' $1 %(p1)s \\"}, priority=3, delay=0.5, group="g").defer("one")
        with app.transaction(held.tx):
            await note.options(unique="two", expires_in=60).defer("two")
            await app.defer_many(note.call(text) for text in ["three", "four"])
        assert await deferred(app) == []
        await maybe(held.commit() if commits else held.rollback())
        await note.defer("outside")
        found = {job.arguments["text"]: job.record.job for job in await deferred(app)}
        assert sorted(found) == (["four", "one", "outside", "three", "two"] if commits else ["outside"])
        if commits:
            one = found["one"]
            assert (one.headers, one.priority, one.group) == ({"é": "'%s' $1 %(p1)s \\"}, 3, "g")
        connection = await asyncpg.connect(postgres.url)
        assert (await connection.fetchval("SELECT to_regclass($1)", table) is not None) == commits
        await connection.execute(f"DROP TABLE IF EXISTS {table}")
        await connection.close()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_is_settled_with_the_commit(opened: Opener, postgres: Process, kind: str) -> None:
    async with opened() as backend:
        assert backend.transactions is not None
        await backend.broker.enqueue([Job(id=str(n), task="t", body=b"", queue="q") for n in range(3)])
        acks = [Ack(delivery.receipt, b"outcome", 60) for delivery in await take(backend.broker, "q", 3)]
        for commits, settled in ((False, False), (True, True)):
            async with holding(kind, postgres.url) as held:
                assert list(await backend.transactions.join(held.tx).settle(acks)) == [True] * 3
                await maybe(held.commit() if commits else held.rollback())
            assert backend.admin is not None
            assert (await backend.admin.stats(["q"]))[0].leased == (0 if settled else 3)


@pytest.mark.parametrize("kind", [*BLOCKING, "django"])
def test_code_without_an_event_loop_defers_in_its_transaction(app: App, postgres: Process, kind: str) -> None:
    note = app.find_task("note")
    opened = BLOCKING.get(kind, of_django)
    with opened(postgres.url) as held:
        note.options(tx=held.tx).defer_sync("rolled back")
        held.rollback()
        held.execute("SELECT 1")
        with app.transaction(held.tx):
            note.options(headers={"%s": "'$1"}, priority=3, delay=0.5, group="g").defer_sync("committed")
        held.commit()
    try:
        (job,) = app.run_sync(deferred, app)
        assert (job.arguments, job.record.job.priority, job.record.job.headers) == (
            {"text": "committed"},
            3,
            {"%s": "'$1"},
        )
    finally:
        app._portal.close()  # pyright: ignore[reportPrivateUsage] - else it is closed when the interpreter exits


@pytest.mark.anyio
class TestRefusals:
    async def test_what_is_no_connection_is_named_with_the_remedy(self, opened: Opener) -> None:
        async with opened() as backend:
            assert backend.transactions is not None
            for what in (object(), sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker()), django_db.connection):
                with pytest.raises(ConfigError, match=r"join\(\) takes .*: give django.db.connection.connection"):
                    backend.transactions.join(what)

    async def test_a_connection_that_commits_each_statement_is_refused(self, opened: Opener, postgres: Process) -> None:
        async with opened() as backend:
            assert backend.transactions is not None
            job = Job(id="a", task="t", body=b"", queue="q")
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                with pytest.raises(BrokerRejected, match="in no transaction"):
                    await backend.transactions.join(connection).enqueue([job])
                with connection.transaction():
                    assert (await backend.transactions.join(connection).enqueue([job]))[0].added
            url = postgres.url.replace("postgresql:", "postgresql+psycopg:")
            engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connected, pytest.raises(BrokerRejected, match="AUTOCOMMIT"):
                await backend.transactions.join(connected).enqueue([job])
            engine.dispose()

    @pytest.mark.parametrize("kind", ["psycopg", "psycopg-sync", "alchemy-session-asyncpg", "alchemy-session-sync"])
    async def test_what_their_drivers_raise_leaves_as_an_error_of_ours(
        self, opened: Opener, postgres: Process, kind: str
    ) -> None:
        job = Job(id="a", task="t", body=b"", queue="q")
        async with opened() as backend, holding(kind, postgres.url) as held:
            assert backend.transactions is not None
            await maybe(held.execute("SET TRANSACTION READ ONLY"))
            with pytest.raises(BrokerUnavailable, match="standby or read-only"):
                await backend.transactions.join(held.tx).enqueue([job])
            with pytest.raises(BrokerRejected, match="the transaction has failed or ended"):
                await backend.transactions.join(held.tx).enqueue([job])
            await maybe(held.rollback())
            assert (await backend.transactions.join(held.tx).enqueue([job]))[0].added
            await maybe(held.rollback())


@pytest.mark.anyio
async def test_psql_enqueues_by_the_documented_function(opened: Opener, postgres: Process, schema: str) -> None:
    async with opened() as backend:
        script = f"""
        BEGIN;
        SELECT * FROM {schema}.enqueue(
          queues => ARRAY['q'], ids => ARRAY['kept'], tasks => ARRAY['send'], bodies => ARRAY['{{}}'::bytea],
          delays => ARRAY[0.01], priorities => ARRAY[7]
        );
        COMMIT;
        BEGIN;
        SELECT * FROM {schema}.enqueue(ARRAY['q'], ARRAY['dropped'], ARRAY['send'], ARRAY['{{}}'::bytea]);
        ROLLBACK;
        SELECT holder FROM {schema}.enqueue(ARRAY['q'], ARRAY['kept'], ARRAY['send'], ARRAY['{{}}'::bytea]);
        """  # noqa: S608
        psql = [str(postgresql.postgres18_binaries() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", postgres.url]
        done = await anyio.run_process(psql, input=script.encode(), stderr=subprocess.STDOUT)
        assert done.stdout.decode().split() == ["kept"]
        (delivery,) = await backend.broker.fetch(["q"], 2, lease=30, wait=10)
        assert delivery.job == Job(id="kept", task="send", body=b"{}", queue="q", priority=7)
