"""Servers that restart, connections that are cut, replies that are lost: what was confirmed stays, and work goes on."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeAlias

import anyio
import asyncpg
import pytest
from taskq_postgres import connect, queries

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.job import Ack, Delivery, Enqueued, Lease, Nack
from taskq.testing.deployment import SOON, a_job, add, names, ref, take, take_one, wait_until
from tests.backends.postgres.conftest import Opener, again, plain, terminate
from tests.servers import postgres as postgresql
from tests.servers.process import Process
from tests.servers.proxy import proxied

Direct: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.mark.anyio
@pytest.mark.parametrize("how", [postgresql.FAST, postgresql.IMMEDIATE, signal.SIGKILL])
async def test_what_was_confirmed_outlives_a_restart_and_work_goes_on(own: Process, how: signal.Signals) -> None:
    async with connect(own.url, migrate=True) as backend:
        await add(backend.broker, *(a_job("q", str(n)) for n in range(20)))
        leased = await take(backend.broker, "q", 5)
        got: list[Delivery] = []

        async def wait() -> None:
            async def fetch() -> None:
                got.extend(await backend.broker.fetch(["idle"], 1, lease=60, wait=2 * SOON))

            await again(fetch)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            if how == signal.SIGKILL:
                own.kill()
            else:
                own.stop(how)
            with pytest.raises(BrokerUnavailable):
                await backend.broker.enqueue([a_job("q", "refused")])
            own.start()
            await again(lambda: backend.broker.extend([delivery.receipt for delivery in leased], 60))
            assert list(await backend.broker.settle([Ack(delivery.receipt) for delivery in leased])) == [True] * 5
            assert len(await take(backend.broker, "q", 15)) == 15
            await add(backend.broker, a_job("idle"))
        assert names(got) == ["a"]


@pytest.mark.anyio
async def test_a_job_is_seen_before_it_is_on_disk_and_the_enqueue_returns_when_it_is(own: Process) -> None:
    async with (
        connect(own.url, migrate=True) as backend,
        plain(own.url) as direct,
        plain(own.url) as writer,
        plain(own.url) as other,
    ):
        heard = anyio.Event()

        def hear(*said: object) -> None:  # noqa: ARG001  # the driver's
            heard.set()

        await direct.add_listener("taskq_taskq", hear)
        # A commit that waits for the disk waits for a standby as well, and there is none.
        await configure(direct, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        written = asyncio.ensure_future(write_until_one_waits(writer))
        await wait_until(lambda: waiting(direct, 1))
        enqueue = asyncio.ensure_future(backend.broker.enqueue([a_job("q")]))
        await wait_until(lambda: waiting(direct, 2))
        assert await direct.fetchval("SELECT state FROM taskq.jobs") == "ready"
        with anyio.fail_after(SOON):
            await heard.wait()
        repeat = "SELECT taskq.enqueue(ARRAY['q'], ARRAY['q-a'], ARRAY['task'], ARRAY[''::bytea])"
        repeated = asyncio.ensure_future(other.fetchval(repeat))
        await wait_until(lambda: waiting(direct, 3))
        assert not enqueue.done()
        assert not repeated.done()
        written.cancel()
        await configure(direct, "ALTER SYSTEM RESET synchronous_standby_names")
        (answer,) = await enqueue
        assert answer.added
        assert await repeated == (1, "q-a", False)


async def write_until_one_waits(connection: Direct) -> None:
    """Those before everybody has heard of the setting do not wait."""
    while True:
        await connection.execute("SELECT pg_logical_emit_message(true, '', '')")


async def waiting(direct: Direct, commits: int) -> bool:
    """Whether so many commits wait for a standby."""
    found: int = await direct.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    return found == commits


async def configure(direct: Direct, statement: str) -> None:
    await direct.execute(statement)
    await direct.execute("SELECT pg_reload_conf()")


@pytest.mark.anyio
async def test_sessions_that_are_ended_are_opened_again(opened: Opener, direct: Direct) -> None:
    async with opened() as backend:
        await add(backend.broker, *(a_job("q", f"{n:02}") for n in range(30)))
        done: list[str] = []

        async def once() -> bool:
            try:
                for delivery in await backend.broker.fetch(["q"], 3, lease=0.5, wait=1):
                    if all(await backend.broker.settle([Ack(delivery.receipt)])):
                        done.extend(names([delivery]))
            except BrokerUnavailable:
                return False
            await terminate(direct)
            return len(done) == 30

        await wait_until(once)
    assert sorted(done) == [f"{n:02}" for n in range(30)]


@pytest.mark.anyio
async def test_without_a_listener_polling_finds_all(opened: Opener) -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/postgres"
    async with opened(listen_url=nowhere) as backend, opened(listen_url=nowhere) as other:
        assert backend.results is not None
        got: list[object] = []

        async def wait() -> None:
            (delivery,) = await backend.broker.fetch(["q"], 1, lease=60, wait=2 * SOON)
            await backend.broker.settle([Ack(delivery.receipt, b"done", 60)])

        async def outcome() -> None:
            assert other.results is not None
            got.append(await other.results.outcome(ref(a_job("q")), wait=2 * SOON))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(outcome)
                await anyio.wait_all_tasks_blocked()
                await add(other.broker, a_job("q"))
        assert got == [b"done"]


@pytest.mark.anyio
async def test_a_listener_that_was_cut_listens_again(opened: Opener, direct: Direct) -> None:
    async with opened() as backend, opened() as other:
        assert backend.hints is not None
        assert other.hints is not None
        async with other.hints.subscribe(["news"]) as hints:
            await terminate(direct)

            async def publish() -> None:
                assert backend.hints is not None
                while True:
                    await backend.hints.publish("news", "again")
                    await anyio.sleep(0.02)

            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    assert (await anext(hints)).data == "again"
                    tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_process_has_five_connections_at_most(opened: Opener, direct: Direct) -> None:
    before = await _sessions(direct)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(opened())
        assert backend.transactions is not None
        assert backend.store is not None
        assert backend.open_store is not None
        store = backend.store
        extender = await stack.enter_async_context(backend.extender())
        # As a worker's thread does for limits and for notes of what runs.
        other_store = await stack.enter_async_context(backend.open_store())
        async with backend.transactions.begin():
            async with anyio.create_task_group() as tasks:
                for n in range(50):
                    tasks.start_soon(add, backend.broker, a_job("q", str(n)))
                    tasks.start_soon(store.get, str(n))
                    tasks.start_soon(other_store.get, str(n))
                    tasks.start_soon(_fetch, backend)
                    tasks.start_soon(extender.extend, ["1.0.1.qa"], 1.0)
            assert await _sessions(direct) - before <= 5
    assert await _is_closed(extender.extend)

    async def all_closed() -> bool:
        return await _sessions(direct) == before

    await wait_until(all_closed)


async def _is_closed(extend: Callable[[list[str], float], Awaitable[object]]) -> bool:
    try:
        await extend(["1.0.1.qa"], 1.0)
    except BrokerUnavailable:
        return True
    return False


@pytest.mark.anyio
async def test_a_server_that_hangs_is_given_up_in_time(own: Process) -> None:
    async with connect(own.url, migrate=True, command_timeout=0.5, connect_timeout=0.5) as backend:
        await add(backend.broker, a_job("q"))
        own.pause()
        try:
            with anyio.fail_after(SOON):
                for call in (backend.broker.enqueue, backend.broker.enqueue):
                    with pytest.raises(BrokerUnavailable):
                        await call([a_job("q", "b")])
        finally:
            own.resume()
        await again(lambda: backend.broker.enqueue([a_job("q", "b")]))
        assert names(await take(backend.broker, "q", 2)) == ["a", "b"]


@pytest.mark.anyio
async def test_a_reply_lost_after_the_commit_leaves_a_call_that_may_be_repeated(postgres: Process, schema: str) -> None:
    async with _Proxy.before(postgres) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        async with (
            connect(postgres.url, schema=schema, migrate=True) as witness,
            connect(url, schema=schema) as backend,
        ):
            await add(backend.broker, a_job("q", "first"), a_job("warm"))
            first = await take_one(backend.broker, "q")
            assert list(await backend.broker.extend([first.receipt], 60)) == [Lease.HELD]
            proxy.swallow(b"q-second")
            with pytest.raises(BrokerUnavailable):
                await backend.broker.enqueue([a_job("q", "second")])
            proxy.swallow(b"q-first")
            with pytest.raises(BrokerUnavailable):
                await backend.broker.settle([Ack(first.receipt)])
            assert not (await backend.broker.enqueue([a_job("q", "second")]))[0].added
            assert list(await backend.broker.settle([Ack(first.receipt)])) == [False]
            assert names(await take(witness.broker, "q")) == ["second"]
            assert list(await witness.broker.fetch(["q"], 5, lease=60, wait=0)) == []


@pytest.mark.anyio
async def test_racing_calls_over_the_same_rows_never_wait_for_each_other_for_ever(opened: Opener) -> None:
    async with opened() as one, opened() as two:
        done = 0

        async def work(backend: Backend, forwards: bool) -> None:
            nonlocal done
            for turn in range(15):
                jobs = [a_job(f"q{turn}", str(n), unique=f"k{n % 10}", group=f"g{n % 3}") for n in range(30)]
                await backend.broker.enqueue(jobs if forwards else jobs[::-1])
                taken = await backend.broker.fetch(
                    [f"q{turn}", f"q{turn - 1}"][:: 1 if forwards else -1], 20, lease=60, wait=0
                )
                receipts = [delivery.receipt for delivery in taken]
                await backend.broker.extend(receipts[::-1], 60)
                assert all(await backend.broker.settle([Ack(receipt) for receipt in receipts]))
            done += 1

        async with anyio.create_task_group() as tasks:
            for backend in (one, two):
                tasks.start_soon(work, backend, True)
                tasks.start_soon(work, backend, False)
        assert done == 4


@pytest.mark.anyio
async def test_a_plain_connection_takes_part_with_its_own_transaction(opened: Opener, postgres: Process) -> None:
    async with opened() as backend, plain(postgres.url) as connection:
        assert backend.transactions is not None
        joined = backend.transactions.join(connection)
        with pytest.raises(BrokerError, match="in no transaction"):
            await joined.enqueue([a_job("q")])
        async with connection.transaction():
            assert (await joined.enqueue([a_job("q")]))[0].added
        assert names(await take(backend.broker, "q")) == ["a"]


@pytest.mark.anyio
async def test_a_lent_transaction_whose_session_ends_leaves_no_trace_and_the_next_one_works(
    opened: Opener, direct: Direct
) -> None:
    async with opened() as backend:
        assert backend.transactions is not None
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 the block is the transaction
            async with backend.transactions.begin() as connection:
                await backend.transactions.join(connection).enqueue([a_job("q", "never")])
                await terminate(direct)
                raise ZeroDivisionError
        with pytest.raises(BrokerUnavailable):  # noqa: PT012 as above
            async with backend.transactions.begin() as connection:
                await backend.transactions.join(connection).enqueue([a_job("q", "never")])
                await terminate(direct)
        async with backend.transactions.begin() as connection:
            await backend.transactions.join(connection).enqueue([a_job("q", "after")])
        assert names(await take(backend.broker, "q")) == ["after"]
        assert list(await backend.broker.fetch(["q"], 5, lease=60, wait=0)) == []


@pytest.mark.anyio
async def test_a_dedup_window_keeps_an_ended_id(opened: Opener) -> None:
    async with opened(dedup_window=60) as backend:
        assert backend.broker.traits.dedup_window == 60
        await add(backend.broker, a_job("q"))
        assert list(await backend.broker.settle([Ack((await take_one(backend.broker, "q")).receipt)])) == [True]
        assert not (await backend.broker.enqueue([a_job("q")]))[0].added
    async with opened() as backend:
        # A window is kept by the rows, not by who reads them.
        assert not (await backend.broker.enqueue([a_job("q")]))[0].added


@pytest.mark.anyio
async def test_a_listener_that_hears_nothing_any_more_delays_a_job_by_a_look(postgres: Process, opened: Opener) -> None:
    async with proxied(postgres.port) as (proxy, port):
        deaf = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with opened(listen_url=deaf) as backend, opened() as other:
            proxy.deaf = frozenset([True, False])
            got: list[Delivery] = []

            async def fetch() -> None:
                got.extend(await backend.broker.fetch(["q"], 1, lease=60, wait=2 * SOON))

            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fetch)
                    await anyio.wait_all_tasks_blocked()
                    await add(other.broker, a_job("q"))
            assert names(got) == ["a"]


@pytest.mark.anyio
async def test_a_server_whose_queue_of_notifications_is_full_takes_jobs_and_hands_them_out() -> None:
    got: list[Delivery] = []
    with postgresql.postgres(options=["max_notify_queue_pages=64"]) as server:
        async with (
            connect(server.url, migrate=True) as producer,
            connect(server.url) as worker,
            plain(server.url) as direct,
            plain(server.url) as idle,
            anyio.create_task_group() as tasks,
        ):
            await idle.execute("LISTEN elsewhere; BEGIN")
            with pytest.raises(asyncpg.ProgramLimitExceededError):
                await direct.execute(
                    "SELECT pg_notify('elsewhere', n || repeat('x', 7000)) FROM generate_series(1, 100) AS n"
                )

            async def fetch() -> None:
                got.extend(await take(worker.broker, "q", 2))

            tasks.start_soon(fetch)
            await anyio.wait_all_tasks_blocked()
            await add(producer.broker, a_job("q", "alone"))
            assert producer.transactions is not None
            async with direct.transaction():
                await producer.transactions.join(direct).enqueue([a_job("q", "joined")])
    assert sorted(names(got)) == ["alone", "joined"]


@pytest.mark.anyio
async def test_a_server_without_a_free_connection_is_worked_on_again_when_there_is_one() -> None:
    with postgresql.postgres(options=["max_connections=12", "superuser_reserved_connections=1"]) as server:
        async with plain(server.url) as direct, AsyncExitStack() as idle:
            # No superuser: for those some places are kept.
            await direct.execute("CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app")
            url = server.url.replace("postgres@", "app@")
            async with connect(url, migrate=True) as backend:
                await add(backend.broker, a_job("q"))
                await terminate(direct)
                with suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        await idle.enter_async_context(plain(url))
                with pytest.raises(BrokerUnavailable, match="no connection left"):
                    await again_until_full(backend)
                await idle.aclose()
                await again(lambda: backend.broker.extend([], 1))
                assert names(await take(backend.broker, "q")) == ["a"]


async def again_until_full(backend: Backend) -> None:
    """Calls until one is refused for want of a connection."""
    while True:
        try:
            await backend.broker.enqueue([a_job("other")])
        except BrokerUnavailable as error:
            if "no connection left" in str(error):
                raise


@pytest.mark.anyio
@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation=serializable",
        "default_transaction_isolation=repeatable read",
        "lock_timeout=1",
        "statement_timeout=250",
        "deadlock_timeout=1",
    ],
)
async def test_a_servers_own_limits_cost_repeated_calls_at_most(setting: str) -> None:
    with postgresql.postgres() as server:
        async with plain(server.url) as direct, connect(server.url, migrate=True):
            name, value = setting.split("=")
            await direct.execute(f"ALTER ROLE postgres SET {name} = '{value}'")
        done: list[str] = []

        async def work(backend: Backend) -> None:
            while len(done) < 60:
                try:
                    taken = await backend.broker.fetch(["q"], 5, lease=0.5, wait=0.05)
                    settled = await backend.broker.settle([Ack(delivery.receipt) for delivery in taken])
                except BrokerUnavailable:
                    continue
                done.extend(delivery.job.id for delivery, ours in zip(taken, settled, strict=True) if ours)

        async with connect(server.url, dedup_window=60) as one, connect(server.url, dedup_window=60) as two:
            jobs = [a_job("q", str(n), group=f"g{n % 3}" if n % 2 else None) for n in range(60)]
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    for backend in (one, two):
                        tasks.start_soon(work, backend)
                        tasks.start_soon(again, lambda backend=backend: backend.broker.enqueue(jobs))
        assert sorted(done) == sorted(job.id for job in jobs)


@pytest.mark.anyio
async def test_an_id_whose_end_is_being_committed_is_not_free(own: Process) -> None:
    async with connect(own.url, migrate=True, dedup_window=60) as backend, plain(own.url) as direct:
        job, transactions, answers = a_job("q-ending"), backend.transactions, list[Enqueued]()
        assert transactions is not None
        await backend.broker.enqueue([job])
        (delivery,) = await backend.broker.fetch([job.queue], 1, lease=60, wait=1)

        async def enqueue_again() -> None:
            answers.extend(await backend.broker.enqueue([job]))

        async def waits() -> bool:
            return bool(await direct.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

        async with anyio.create_task_group() as tasks, direct.transaction():
            assert await transactions.join(direct).settle([Ack(delivery.receipt)]) == [True]
            tasks.start_soon(enqueue_again)
            await wait_until(waits)
        assert [answer.added for answer in answers] == [False]
        assert not await backend.broker.fetch([job.queue], 1, lease=60, wait=0)


@pytest.mark.anyio
async def test_a_read_only_server_is_unavailable(own: Process) -> None:
    async with connect(own.url, migrate=True) as backend, plain(own.url) as direct:
        await direct.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await direct.execute("SELECT pg_reload_conf()")

        async def refuses() -> bool:
            try:
                await backend.broker.enqueue([a_job("q")])
            except BrokerUnavailable as error:
                return "standby or read-only" in str(error)
            return False

        await wait_until(refuses)
        await direct.execute("SET default_transaction_read_only = off")
        await direct.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await direct.execute("SELECT pg_reload_conf()")
        await again(lambda: backend.broker.enqueue([a_job("q", "b")]))
        # The one before may have been taken after all: it was asked for until it was refused.
        assert "b" in names(await backend.broker.fetch(["q"], 2, lease=60, wait=0))


@pytest.mark.anyio
async def test_a_caller_whose_transaction_sees_the_past_opens_no_place_in_a_group(
    opened: Opener, postgres: Process
) -> None:
    async with opened() as backend, plain(postgres.url) as connection:
        assert backend.transactions is not None
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT 1")
            await add(backend.broker, a_job("q", "first", group="g"))
            first = await take_one(backend.broker, "q")
            await backend.transactions.join(connection).enqueue([a_job("q", "second", group="g")])
        assert list(await backend.broker.fetch(["q"], 5, lease=60, wait=0)) == []
        assert list(await backend.broker.settle([Ack(first.receipt)])) == [True]
        assert names(await take(backend.broker, "q")) == ["second"]


async def _fetch(backend: Backend) -> None:
    await backend.broker.fetch(["nothing"], 1, lease=1, wait=0.1)


async def _sessions(connection: Direct) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    )
    return count


class _Proxy:
    """Passes bytes on in both directions; the answer to a marked question it keeps, and hangs up."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._mark = b""
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, server: Process) -> AsyncGenerator["_Proxy"]:
        proxy = cls(server.port)
        listener = await asyncio.start_server(proxy._serve, "127.0.0.1")
        proxy.port = listener.sockets[0].getsockname()[1]
        async with listener:
            yield proxy

    def swallow(self, mark: bytes) -> None:
        """The next statement with this among its parameters is carried out, and nobody hears of it."""
        self._mark = mark

    async def _serve(self, asking: asyncio.StreamReader, answering: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", self._upstream)
        marked = asyncio.Event()

        async def ask() -> None:
            while piece := await asking.read(65536):
                if self._mark and self._mark in piece:
                    self._mark = b""
                    marked.set()
                questions.write(piece)
            questions.close()

        async def answer() -> None:
            while (piece := await answers.read(65536)) and not marked.is_set():
                answering.write(piece)
            answering.close()
            questions.close()

        await asyncio.gather(ask(), answer(), return_exceptions=True)


@pytest.mark.anyio
async def test_what_a_backend_gives_back_on_its_way_out_is_told(postgres: Process) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    async with connect(f"{postgres.url}?schema=last_words", migrate=True) as backend:
        listener: Direct = await asyncpg.connect(postgres.url)
        await add(backend.broker, a_job("q", "1"))
        delivery = await take_one(backend.broker, "q")

        def hear(*said: object) -> None:
            heard.put_nowait(said[-1])

        await listener.add_listener(queries.channel("last_words"), hear)
        await backend.broker.settle([Nack(delivery.receipt, 0.0, counted=False)])
    with anyio.fail_after(SOON):
        assert await heard.get() == "qq"
    await listener.close()
