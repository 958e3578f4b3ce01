"""A job that comes by itself is handed to a fetch that waits: what is leased so, and what when nobody takes it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from taskq_redis import connect

from taskq.broker import Backend
from taskq.job import Delivery, Lease
from taskq.testing.deployment import LONG, SHORT, SOON, a_job, ack, add, names, pass_lease, take, take_one, wait_until
from tests.backends.redis.deployment import command
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


@pytest.fixture
async def two(own_redis: Process) -> AsyncGenerator[tuple[Backend, Backend]]:
    """Who waits, and another process, for which the server knows the scripts."""
    async with connect(own_redis.url) as backend, connect(own_redis.url) as other:
        await add(other.broker, a_job("warm"))
        await ack(other.broker, *await other.broker.fetch(["warm"], 1, lease=LONG, wait=0))
        assert backend.hints is not None
        # Whoever waits looks once more when the connection that hears is open.
        async with backend.hints.subscribe(["news"]):
            yield backend, other


async def waits(server: Process, count: int = 1) -> None:
    async def all_wait() -> bool:
        return bool(command(server, "ZCARD", "{taskq:q}:waiting") == count)

    await wait_until(all_wait)


@asynccontextmanager
async def waiting(
    server: Process, backend: Backend, lease: float = LONG
) -> AsyncGenerator[Callable[[], list[Delivery]]]:
    """While a fetch waits; what it got, once the context is left."""
    got: list[Delivery] = []

    async def fetch() -> None:
        got.extend(await backend.broker.fetch(["q"], 1, lease=lease, wait=SOON))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch)
        await waits(server)
        yield lambda: got


async def ended(server: Process, backend: Backend) -> None:
    """A fetch has waited in vain, and the server counts on the next one."""
    assert backend.rouse is not None
    async with waiting(server, backend):
        backend.rouse()


def calls(server: Process) -> int:
    return int(command(server, "INFO", "commandstats")["cmdstat_evalsha"]["calls"])


async def test_a_fetch_that_waits_gets_the_job_with_the_message(
    own_redis: Process, two: tuple[Backend, Backend]
) -> None:
    backend, other = two
    got: list[Delivery] = []
    for name in ("a", "b"):
        async with waiting(own_redis, backend) as taken:
            before = calls(own_redis)
            await add(other.broker, a_job("q", name))
        # The enqueue and nothing else.
        assert calls(own_redis) - before == 1
        got += taken()
    assert names(got) == ["a", "b"]
    assert [(one.attempt, one.losses, one.due, one.cancelled) for one in got] == [(1, 0, one.now, False) for one in got]
    assert [one.fence for one in got] == [round(one.now * 1e6) for one in got]
    assert len({one.receipt[:16] for one in got}) == 2
    assert await backend.broker.extend([one.receipt for one in got], LONG) == [Lease.HELD, Lease.HELD]
    await ack(other.broker, *got)


async def test_whoever_is_handed_a_job_hands_on_the_keeping_of_the_time(
    own_redis: Process, two: tuple[Backend, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq_redis.waiting.LOOK", 3600.0)
    backend, other = two
    second: list[Delivery] = []

    async def fetch() -> None:
        second.extend(await other.broker.fetch(["q"], 1, lease=LONG, wait=SOON))

    async def keeps() -> object:
        return command(own_redis, "GET", "{taskq:q}:keeper")

    async with waiting(own_redis, backend) as first, anyio.create_task_group() as tasks:
        tasks.start_soon(fetch)
        await waits(own_redis, 2)
        before = await keeps()
        await add(other.broker, a_job("q", "at once"))
        await wait_until(lambda: is_another(keeps, before))
        await add(other.broker, a_job("q", "soon", delay=SHORT))
    assert names([*first(), *second]) == ["at once", "soon"]


async def is_another(look: Callable[[], Awaitable[object]], before: object) -> bool:
    return await look() not in (None, before)


async def test_a_job_is_handed_to_nobody_past_those_before_it(own_redis: Process, two: tuple[Backend, Backend]) -> None:
    _, other = two
    await add(other.broker, a_job("q", "lost"))
    await other.broker.fetch(["q"], 1, lease=SHORT, wait=0)
    await pass_lease(other.broker, "q")
    async with heard(own_redis, LONG) as told:
        await add(other.broker, a_job("q", "later"))
        with anyio.fail_after(SOON):
            await told(b"$1\r\n1\r\n")
    assert names(await take(other.broker, "q", 2)) == ["lost", "later"]


async def test_who_is_gone_is_handed_nothing(own_redis: Process, two: tuple[Backend, Backend]) -> None:
    _, other = two
    register(own_redis, LONG)
    await add(other.broker, a_job("q"))
    (got,) = await other.broker.fetch(["q"], 1, lease=LONG, wait=0)
    assert (got.attempt, got.losses) == (1, 0)
    await ack(other.broker, got)


async def test_who_hangs_is_handed_one_job_which_comes_back_with_its_lease(
    own_redis: Process, two: tuple[Backend, Backend]
) -> None:
    _, other = two
    async with heard(own_redis, SHORT):
        await add(other.broker, a_job("q", "handed"))
        await add(other.broker, a_job("q", "next"))
        (got,) = await other.broker.fetch(["q"], 2, lease=LONG, wait=0)
        assert names([got]) == ["next"]
        (back,) = await take(other.broker, "q")
    assert (names([back]), back.attempt, back.losses) == (["handed"], 1, 1)
    await ack(other.broker, got, back)


async def test_what_comes_when_the_fetch_is_over_is_given_back(
    own_redis: Process, two: tuple[Backend, Backend]
) -> None:
    backend, other = two
    await ended(own_redis, backend)
    for name in ("a", "b", "c"):
        await add(other.broker, a_job("q", name))
    got = await take(other.broker, "q", 3)
    assert [(one.attempt, one.losses) for one in got] == [(1, 0)] * 3
    await ack(other.broker, *got)
    # In one process nobody need wait for it.
    await ended(own_redis, backend)
    for name in ("a", "b", "c"):
        await add(backend.broker, a_job("q", name))
    again = await backend.broker.fetch(["q"], 3, lease=LONG, wait=0)
    assert names(again) == ["a", "b", "c"]
    await ack(backend.broker, *again)
    assert command(own_redis, "ZCARD", "{taskq:q}:waiting") == 0


async def test_a_backend_that_closes_gives_back_what_is_on_its_way(
    own_redis: Process, two: tuple[Backend, Backend]
) -> None:
    _, other = two
    for turns in range(8):
        async with AsyncExitStack() as stack:
            closing = await stack.enter_async_context(connect(own_redis.url))
            await ended(own_redis, closing)
            adding = asyncio.create_task(add(other.broker, a_job("q", str(turns))))
            for _ in range(turns):
                await asyncio.sleep(0)
        await adding
        got = await take_one(other.broker, "q")
        assert (names([got]), got.losses) == ([str(turns)], 0)
        await ack(other.broker, got)


@pytest.mark.parametrize(("queues", "partitions"), [(["q", "r"], 1), (["q"], 2)])
async def test_a_fetch_of_several_is_told_and_asks(own_redis: Process, queues: list[str], partitions: int) -> None:
    async with connect(own_redis.url, partitions=partitions) as backend:
        got: list[Delivery] = []

        async def fetch() -> None:
            got.extend(await backend.broker.fetch(queues, 1, lease=LONG, wait=SOON))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await waits(own_redis)
            (member,) = command(own_redis, "ZRANGE", "{taskq:q}:waiting", 0, -1)
            assert member.endswith(b" 0")
            await add(backend.broker, a_job("q"))
        await ack(backend.broker, *got)


# Somebody who waits and is no process of ours


def register(server: Process, lease: float) -> None:
    command(server, "ZADD", "{taskq:q}:waiting", "+inf", f"taskq:wake:somebody 1 {int(lease * 1e6)}")


@asynccontextmanager
async def heard(server: Process, lease: float) -> AsyncGenerator[Callable[[bytes], Awaitable[bytes]]]:
    """While somebody hears and does nothing; how to read what he is told, up to something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(b"SUBSCRIBE taskq:wake:somebody\r\n")
        await reader.readuntil(b":1\r\n")
        register(server, lease)
        yield reader.readuntil
    finally:
        writer.close()
        await writer.wait_closed()
