"""A job that comes by itself is handed to a fetch that waits: what is leased so, and what when nobody takes it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any, TypeAlias

import anyio
import asyncpg
import pytest
from msgspec import Struct
from msgspec.structs import replace
from taskq_postgres import broker, queries
from taskq_postgres.faults import DRIVER_ERRORS
from taskq_postgres.verbs import Verbs
from taskq_postgres.wishes import Wish

from taskq.broker import Backend
from taskq.job import Ack, Delivery, Job, Lease
from taskq.testing.deployment import LONG, SHORT, SOON, a_job, ack, names, pass_lease, take, take_one, wait_until
from tests.backends.postgres.conftest import Opener, plain
from tests.servers.process import Process
from tests.servers.proxy import proxied

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.anyio


class Ground(Struct, frozen=True):
    """Who waits, who looks, who adds, and what the server knows of those who wait."""

    backend: Backend
    other: Backend
    adder: Connection
    direct: Connection
    schema: str

    async def add(self, *jobs: Job) -> None:
        """As a backend does after a silence."""
        answers = await Verbs(queries.load(self.schema), 1 << 20, 0).enqueue_ahead(self.adder, jobs)
        assert [(answer.id, answer.added, answer.error) for answer in answers] == [(job.id, True, None) for job in jobs]

    async def ask(self, query: str, *arguments: object) -> Any:
        return await self.direct.fetchval(query.format(schema=self.schema), *arguments)

    async def offered(self, count: int = 1) -> None:
        """Return when so many may be handed a job."""

        async def are() -> bool:
            return bool(await self.ask("SELECT count(*) FROM {schema}.waits WHERE token IS NOT NULL") == count)

        await wait_until(are)

    @asynccontextmanager
    async def waiting(
        self, queues: Sequence[str] = ("q",), limit: int = 1, lease: float = LONG
    ) -> AsyncGenerator[Callable[[], list[Delivery]]]:
        """While a fetch waits; what it got, once the context is left."""
        got: list[Delivery] = []

        async def fetch() -> None:
            got.extend(await self.backend.broker.fetch(queues, limit, lease=lease, wait=SOON))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await self.offered()
            yield lambda: got

    async def ended(self) -> None:
        """A fetch has waited in vain, and the server counts on the next one."""
        assert self.backend.rouse is not None
        async with self.waiting():
            self.backend.rouse()


async def has_heard(backend: Backend) -> None:
    """Return when it has heard what was said before."""
    assert backend.hints is not None
    async with backend.hints.subscribe(["news"]) as hints:
        await backend.hints.publish("news", "")
        with anyio.fail_after(SOON):
            await anext(hints)


@pytest.fixture
async def ground(opened: Opener, postgres: Process, direct: Connection, schema: str) -> AsyncGenerator[Ground]:
    async with opened() as backend, opened() as other, plain(postgres.url) as adder:
        yield Ground(backend, other, adder, direct, schema)


async def test_a_fetch_that_waits_gets_the_job_with_the_message_and_does_not_look(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "LOOK", inf)
    got: list[Delivery] = []
    for name in ("a", "b"):
        async with ground.waiting(["p", "q"], lease=30) as taken:
            await ground.add(a_job("q", name, body=b"\x00\xff\n" * 30))
        got += taken()
    assert names(got) == ["a", "b"]
    assert [one.job.body for one in got] == [b"\x00\xff\n" * 30] * 2
    assert [(one.attempt, one.losses, one.fence, one.due) for one in got] == [(1, 0, 1, one.now) for one in got]
    assert await ground.ask("SELECT count(*) FROM {schema}.jobs WHERE state = 'leased'") == 2
    assert [one.job.id for one in got] == ["q-a", "q-b"]
    assert await ground.other.broker.extend([one.receipt for one in got], LONG) == [Lease.HELD, Lease.HELD]
    await ack(ground.other.broker, *got)


async def test_a_handed_job_is_on_disk_before_anybody_hears_of_it(ground: Ground) -> None:
    async with ground.waiting():
        before = await ground.ask("SELECT pg_current_wal_flush_lsn()")
        await ground.add(a_job("q"))
    assert await ground.ask("SELECT pg_current_wal_flush_lsn() > $1", before)


async def test_what_is_more_than_a_small_plain_job_is_told_of(ground: Ground) -> None:
    kinds: list[dict[str, Any]] = [
        *({"priority": 1}, {"delay": 0.01}, {"unique": "u"}, {"group": "g"}, {"tenant": "t"}, {"headers": {"x": "y"}}),
        *({"body": b"x" * size} for size in (5001, 20_000)),
    ]
    for number, said in enumerate(kinds):
        async with ground.waiting() as taken:
            await ground.add(a_job("q", str(number), **said))
        assert names(taken()) == [str(number)]
        await ack(ground.other.broker, *taken())
    async with ground.waiting() as taken:
        await ground.add(a_job("q"), a_job("r"))
    assert names(taken()) == ["a"]
    assert not await handed(ground)


async def test_a_job_is_handed_to_nobody_past_those_before_it(ground: Ground) -> None:
    await ground.add(a_job("q", "lost"))
    await ground.other.broker.fetch(["q"], 1, lease=SHORT, wait=0)
    await pass_lease(ground.other.broker, "q")
    async with ground.waiting(["r"]):
        # It waits for this queue, too, as far as the server knows, and has not looked since.
        await ground.ask("UPDATE {schema}.waits SET lines = ARRAY['q', 'r']")
        await ground.add(a_job("q", "later"))
        assert await ground.ask("SELECT count(*) FROM {schema}.waits WHERE handed IS NOT NULL") == 0
        await ground.add(a_job("r"))
    assert names(await take(ground.other.broker, "q", 2)) == ["lost", "later"]


async def test_an_id_that_is_known_is_not_handed_over_again(ground: Ground) -> None:
    async with ground.waiting() as taken:
        await ground.add(a_job("q"))
    async with ground.waiting():
        (answer,) = await ground.other.broker.enqueue([a_job("q")])
        assert (answer.id, answer.added) == ("q-a", False)
        receipts = [delivery.receipt for delivery in taken()]
        assert await ground.other.broker.settle([Ack(receipt, b"{}", LONG) for receipt in receipts]) == [True]
        # Its outcome is the last end's of its id: who adds it again takes it away.
        await ground.add(a_job("q"))
    assert await ground.ask("SELECT count(*) FROM {schema}.ended") == 0


async def test_who_hangs_is_handed_one_job_which_comes_back_with_its_lease_and_who_is_gone_is_handed_nothing(
    ground: Ground, postgres: Process
) -> None:
    ear = 1
    waits = "INSERT INTO {schema}.waits VALUES ($1, ARRAY['q'], $2, 2, extract(epoch FROM clock_timestamp()) + $3)"
    async with plain(postgres.url) as listener:
        await listener.execute(queries.load(ground.schema).live, ear)
        await ground.ask(waits, ear, SHORT, LONG)
        await ground.add(a_job("q", "handed"))
        await ground.add(a_job("q", "next"))
        free = await ground.other.broker.fetch(["q"], 2, lease=LONG, wait=0)
        assert names(free) == ["next"]
        (back,) = await take(ground.other.broker, "q")
        assert (names([back]), back.attempt, back.losses, back.fence) == (["handed"], 1, 1, 2)
        await ack(ground.other.broker, *free, back)
        await ground.ask("UPDATE {schema}.waits SET token = 3 WHERE ear = $1", ear)
    lock = "SELECT pg_try_advisory_lock({schema}.life($1)) AND pg_advisory_unlock({schema}.life($1))"
    await wait_until(lambda: ground.ask(lock, ear))
    await ground.add(a_job("q", "gone"))
    (got,) = await ground.other.broker.fetch(["q"], 1, lease=LONG, wait=0)
    assert (names([got]), got.losses) == (["gone"], 0)
    assert await ground.ask("SELECT token IS NULL AND handed = 2 FROM {schema}.waits WHERE ear = $1", ear)


async def test_a_reply_that_is_lost_after_the_job_was_handed_over_leaves_a_call_that_may_be_repeated(
    ground: Ground, postgres: Process
) -> None:
    async with (
        proxied(postgres.port) as (proxy, port),
        plain(f"postgresql://postgres@127.0.0.1:{port}/postgres") as adder,
    ):
        here = replace(ground, adder=adder)
        # The statement is prepared by then, and what is cut is its answer.
        await here.add(a_job("warm"))
        async with ground.waiting() as taken:
            proxy.cutting = True
            with pytest.raises(DRIVER_ERRORS):
                await here.add(a_job("q"))
        (got,) = taken()
        assert await handed(ground)
        (answer,) = await ground.other.broker.enqueue([a_job("q")])
        assert (answer.id, answer.added) == ("q-a", False)
        assert (got.attempt, got.losses, got.fence) == (1, 0, 1)
        await ack(ground.other.broker, got)


async def test_who_has_not_looked_for_seconds_is_handed_nothing(ground: Ground) -> None:
    await ground.ended()
    await ground.ask("UPDATE {schema}.waits SET until = extract(epoch FROM clock_timestamp()) - 0.001")
    await ground.add(a_job("q"))
    (got,) = await ground.other.broker.fetch(["q"], 1, lease=LONG, wait=0)
    assert (got.attempt, got.losses) == (1, 0)


async def test_what_comes_when_the_fetch_is_over_is_given_back(ground: Ground) -> None:
    await ground.ended()
    for name in ("a", "b", "c"):
        await ground.add(a_job("q", name))
    got = await take(ground.other.broker, "q", 3)
    assert sorted(names(got)) == ["a", "b", "c"]
    assert [(one.attempt, one.losses) for one in got] == [(1, 0)] * 3


async def test_a_fetch_that_is_cancelled_as_it_is_handed_a_job_gives_it_back(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = asyncio.ensure_future(ground.backend.broker.fetch(["q"], 1, lease=LONG, wait=SOON))
    hand = Wish.hand

    def cancel_and_hand(wish: Wish, delivery: Delivery) -> bool:
        fetch.cancel()
        return hand(wish, delivery)

    monkeypatch.setattr(Wish, "hand", cancel_and_hand)
    await ground.offered()
    await ground.add(a_job("q"))
    await asyncio.wait({fetch}, timeout=SOON)
    assert fetch.cancelled()
    got = await take_one(ground.other.broker, "q")
    assert (got.attempt, got.losses) == (1, 0)


async def handed(ground: Ground) -> bool:
    return bool(await ground.ask("SELECT count(*) FROM {schema}.waits WHERE handed IS NOT NULL"))


async def test_a_fetch_that_does_not_wait_finds_what_was_handed_to_one_that_did(ground: Ground) -> None:
    for name in ("a", "b", "c"):
        await ground.ended()
        await ground.add(a_job("q", name))
        (got,) = await ground.backend.broker.fetch(["q"], 1, lease=LONG, wait=0)
        assert (names([got]), got.losses) == ([name], 0)
        await ack(ground.backend.broker, got)


async def test_a_lost_message_delays_a_handed_job_by_a_look(opened: Opener, postgres: Process, ground: Ground) -> None:
    async with proxied(postgres.port) as (proxy, port):
        deaf = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with opened(listen_url=deaf) as backend:
            here = replace(ground, backend=backend)
            await here.ended()
            proxy.deaf = frozenset([True, False])
            for name in ("a", "b"):
                got: list[Delivery] = []
                async with here.waiting() as taken:
                    await ground.add(a_job("q", name))
                    assert await handed(ground)
                got += taken()
                assert [(names([one]), one.attempt, one.losses, one.fence) for one in got] == [([name], 1, 0, 1)]
                await ack(ground.other.broker, *got)


async def test_a_message_that_comes_after_the_look_brings_nothing_twice(
    opened: Opener, postgres: Process, ground: Ground
) -> None:
    async with proxied(postgres.port) as (proxy, port):
        slow = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        async with opened(listen_url=slow) as backend:
            here = replace(ground, backend=backend)
            await here.ended()
            proxy.latency = 1.5
            for name in ("a", "b"):
                async with here.waiting() as taken:
                    await ground.add(a_job("q", name))
                assert names(taken()) == [name]
                await ack(ground.other.broker, *taken())
            proxy.latency = 0.0
            await has_heard(backend)
            # Had a message been taken for a job, it would have been given back, and be there again.
            assert await backend.broker.fetch(["q"], 1, lease=LONG, wait=0) == []


async def test_a_backend_that_closes_gives_back_what_is_coming_and_leaves_no_row(
    opened: Opener, ground: Ground
) -> None:
    for turns in range(5):
        async with AsyncExitStack() as stack:
            closing = await stack.enter_async_context(opened())
            await replace(ground, backend=closing).ended()
            adding = asyncio.create_task(ground.add(a_job("q", str(turns))))
            for _ in range(turns):
                await asyncio.sleep(0)
        await adding
        assert await ground.ask("SELECT count(*) FROM {schema}.waits") == 0
        got = await take_one(ground.other.broker, "q")
        assert (names([got]), got.losses) == ([str(turns)], 0)
        await ack(ground.other.broker, got)


async def test_who_waits_writes_nothing_for_seconds(ground: Ground) -> None:
    async with ground.waiting():
        version = await ground.ask("SELECT xmin::text || ctid FROM {schema}.waits")
        assert ground.backend.rouse is not None
        ground.backend.rouse()
    async with ground.waiting():
        assert await ground.ask("SELECT xmin::text || ctid FROM {schema}.waits") == version
        assert ground.backend.rouse is not None
        ground.backend.rouse()


async def test_whoever_adds_an_id_that_is_being_fetched_waits_for_nobody_who_waits_for_him(
    ground: Ground, postgres: Process
) -> None:
    statement = queries.load(ground.schema).fetch
    async with ground.waiting() as taken, plain(postgres.url) as worker:
        ear = await ground.ask("SELECT ear FROM {schema}.waits")
        # Told of nothing, so that only this worker finds it.
        await Verbs(queries.load(ground.schema), 1 << 20, 0).enqueue(ground.adder, [a_job("q")], tells=False)
        async with worker.transaction():
            await worker.execute(f"UPDATE {ground.schema}.jobs SET attempt = attempt")  # noqa: S608
            adding = asyncio.ensure_future(ground.other.broker.enqueue([a_job("q")]))
            await wait_until(lambda: is_blocked(ground))
            (row,) = await worker.fetch(statement, ["q"], 1, LONG, 1, None, ear, None, True)
            assert row["id"] == "q-a"
        assert not (await adding)[0].added
        await ground.add(a_job("q", "b"))
    assert names(taken()) == ["b"]


async def is_blocked(ground: Ground) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
    return bool(await ground.ask(query, f"%{ground.schema}%"))
