"""What the driver raises, and what a URL can say that no backend can use."""

from collections.abc import Iterator
from typing import TypeVar

import asyncpg
import pytest
from taskq_postgres import connect
from taskq_postgres.faults import LASTING, PASSING, translated, translating

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, ConfigError
from taskq.job import Ack, Job
from tests.backends.postgres.conftest import Opener
from tests.servers import postgres as postgresql
from tests.servers.process import Process

E = TypeVar("E", bound=Exception)


def subclasses(kind: type[E]) -> Iterator[type[E]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


SERVER_ERRORS = {kind.__name__: kind for kind in subclasses(asyncpg.PostgresError) if kind.sqlstate}


@pytest.mark.parametrize("kind", SERVER_ERRORS.values(), ids=SERVER_ERRORS)
def test_every_error_of_the_server_has_its_remedy(kind: type[asyncpg.PostgresError]) -> None:
    state = kind.sqlstate
    assert isinstance(state, str)
    known = [code for code in (state, state[:2]) if code in PASSING or code in LASTING]
    assert known, f"{kind.__name__} ({state}) is not mapped"
    error = kind("said the server")
    found = translated(error, "postgresql://here/db")
    assert type(found) is (BrokerUnavailable if known[0] in PASSING else BrokerRejected)
    assert found.__cause__ is error


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (asyncpg.ConnectionDoesNotExistError, BrokerUnavailable),
        (asyncpg.TooManyConnectionsError, BrokerUnavailable),
        (asyncpg.AdminShutdownError, BrokerUnavailable),
        (asyncpg.CannotConnectNowError, BrokerUnavailable),
        (asyncpg.SerializationError, BrokerUnavailable),
        (asyncpg.DeadlockDetectedError, BrokerUnavailable),
        (asyncpg.DiskFullError, BrokerUnavailable),
        (asyncpg.OutOfMemoryError, BrokerUnavailable),
        (asyncpg.QueryCanceledError, BrokerUnavailable),
        (asyncpg.ReadOnlySQLTransactionError, BrokerUnavailable),
        (asyncpg.InsufficientPrivilegeError, BrokerRejected),
        (asyncpg.UndefinedTableError, BrokerRejected),
        (asyncpg.UndefinedFunctionError, BrokerRejected),
        (asyncpg.InvalidCatalogNameError, BrokerRejected),
        (asyncpg.InvalidPasswordError, BrokerRejected),
        (asyncpg.InvalidAuthorizationSpecificationError, BrokerRejected),
        (asyncpg.DataError, BrokerRejected),
        (asyncpg.InterfaceError, BrokerUnavailable),
        (ConnectionRefusedError, BrokerUnavailable),
        (TimeoutError, BrokerUnavailable),
    ],
)
def test_what_may_pass_is_told_from_what_lasts(kind: type[Exception], said: type[BrokerError]) -> None:
    assert type(translated(kind("said the driver"), "postgresql://here/db")) is said


@pytest.mark.parametrize("kind", [*subclasses(asyncpg.InterfaceError), *subclasses(asyncpg.InternalClientError)])
def test_every_error_of_the_driver_leaves_as_ours(kind: type[Exception]) -> None:
    with pytest.raises(BrokerError, match="postgresql://here/db: ") as caught, translating("postgresql://here/db"):
        raise kind("said the driver")
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://here/db", "names no PostgreSQL"),
        ("postgresql://here/db?lease=3", "unknown option lease; postgresql knows schema, migrate, connections"),
        ("postgresql://here/db?connections=many", "connections.*postgresql knows"),
        ("postgresql://here/db?connections=0", "at least 1"),
        ("postgresql://here/db?command_timeout=0", "more than 0"),
        ("postgresql://here/db?schema=My%20Schema", "lower-case letters"),
    ],
)
async def test_a_url_that_says_nothing_usable_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        async with connect(url):
            pass


@pytest.mark.anyio
class TestOpening:
    async def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_told(self) -> None:
        with pytest.raises(BrokerUnavailable, match="cannot be reached") as caught:
            async with connect("postgresql://me:secret@127.0.0.1:1/db"):
                pass
        assert "secret" not in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)

    async def test_a_database_that_is_not_there_is_named_as_the_remedy(self, postgres: Process) -> None:
        with pytest.raises(BrokerRejected, match="database does not exist: create it"):
            async with connect(postgres.url.removesuffix("postgres") + "elsewhere"):
                pass

    async def test_a_user_without_rights_is_told_what_to_grant(
        self, postgres: Process, direct: "asyncpg.Connection[asyncpg.Record]", opened: Opener, schema: str
    ) -> None:
        async with opened():
            await direct.execute(f"CREATE ROLE {schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {schema}")
            await direct.execute(f"GRANT SELECT ON {schema}.migrations TO {schema}")
        url = postgres.url.replace("//postgres@", f"//{schema}@")
        async with connect(url, schema=schema) as backend:
            with pytest.raises(BrokerRejected, match="grant it a role of `taskq migrate --roles`"):
                await backend.broker.fetch(["q"], 1, lease=1, wait=0)

    async def test_tables_that_went_missing_are_reported(
        self, direct: "asyncpg.Connection[asyncpg.Record]", opened: Opener, schema: str
    ) -> None:
        async with opened() as backend:
            await direct.execute(f"ALTER TABLE {schema}.jobs RENAME TO elsewhere")
            with pytest.raises(BrokerRejected, match="run `taskq migrate`"):
                await backend.broker.enqueue([Job(id="a", task="t", body=b"")])


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["half a pair: \ud800", "nothing: \0"])
async def test_text_that_no_column_can_hold_is_refused(opened: Opener, text: str) -> None:
    async with opened() as backend:
        assert backend.store is not None
        bad, fine = await backend.broker.enqueue([Job(id=text, task="t", body=b""), Job(id="fine", task="t", body=b"")])
        assert isinstance(bad.error, BrokerRejected)
        assert fine.added
        assert list(await backend.broker.settle([Ack(f"1.0.0.{text}")])) == [False]
        for call in (
            backend.broker.fetch([text], 1, lease=1, wait=0),
            backend.store.get(text),
            backend.store.add("key", [text]),
        ):
            with pytest.raises(BrokerRejected):
                await call


@pytest.mark.anyio
@pytest.mark.parametrize(
    "job",
    [
        Job(id="a", task="t", body=b"", priority=2**31),
        Job(id="a", task="t", body=b"", group="g", group_limit=0),
        Job(id="a", task="t", body=b"", delay=float("inf")),
        Job(id="a" * 1201, task="t", body=b""),
        Job(id="a", task="t", body=b"", unique="ü" * 601),
    ],
)
async def test_a_job_that_no_row_can_hold_is_refused_alone(opened: Opener, job: Job) -> None:
    async with opened() as backend:
        bad, fine = await backend.broker.enqueue([job, Job(id="fine", task="t", body=b"")])
        assert isinstance(bad.error, BrokerRejected)
        assert fine.added


@pytest.mark.anyio
@pytest.mark.parametrize(("setting", "durability"), [("off", "seconds"), ("on", "disk"), ("local", "disk")])
async def test_what_a_commit_waits_for_is_what_the_traits_promise(setting: str, durability: str) -> None:
    with postgresql.postgres(options=["fsync=on", f"synchronous_commit={setting}"]) as server:
        async with connect(server.url, migrate=True) as backend:
            assert backend.broker.traits.durability == durability


@pytest.mark.anyio
async def test_a_server_that_never_waits_for_the_disk_promises_no_disk(opened: Opener) -> None:
    async with opened() as backend:
        assert backend.broker.traits.durability == "seconds"
