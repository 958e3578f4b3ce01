"""What workers cost Redis in commands and connections."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from taskq import App
from tests.backends.redis.deployment import command
from tests.servers import valkey
from tests.servers.process import Process
from tests.worker.moves import wait_until, waits_at_fifty_a_second

Row = Callable[[str, str, Mapping[str, object]], None]

pytestmark = pytest.mark.anyio

LONG = "TASKQ_TEST_LONG" in os.environ

PERIOD = 60.0 if LONG else 6.0
"""Seconds of idleness that are counted."""

HEAD = """# What a worker costs Redis, and how soon it starts

An idle worker of three queues and a schedule, and a thousand jobs that are deferred one by one at an even pace."""


@contextmanager
def servers(masters: int, directory: Path) -> Generator[Sequence[Process]]:
    if masters == 1:
        with valkey.single(directory) as server:
            yield [server]
    else:
        with valkey.cluster(directory, masters=masters) as nodes:
            yield nodes


def sent(nodes: Sequence[Process]) -> int:
    """What clients have sent; what scripts call is not counted, and neither is what asks."""
    stats = [command(node, "INFO", "commandstats") for node in nodes]
    names = [f"cmdstat_{name}" for name in ("evalsha", "eval", "ping", "subscribe", "cluster|slots")]
    return sum(stat[name]["calls"] for stat in stats for name in names if name in stat)


@pytest.mark.parametrize("masters", [1, 3])
async def test_as_31_an_idle_worker_sends_a_command_a_second_and_starts_a_job_at_once(
    masters: int, tmp_path: Path, row: Row
) -> None:
    ran: list[str] = []

    async def note(word: str) -> None:
        ran.append(word)

    with servers(masters, tmp_path) as nodes:
        app, other = App(nodes[0].url, queues=("a", "b", "c")), App(nodes[0].url)
        tasks = [each.task(name="note", queue="b", idempotent=True)(note) for each in (app, other)]
        app.schedule("0 4 1 1 *", name="yearly", args={"word": "yearly"})(tasks[0])
        async with other, app, app.working():
            await tasks[1].defer("first")
            await wait_until(lambda: ran == ["first"])
            # The end of that job, and the looks after it.
            await anyio.sleep(1.0)
            before, began = sent(nodes), anyio.current_time()
            await anyio.sleep(PERIOD)  # how much is sent in a time is what this is about
            took, count = anyio.current_time() - began, sent(nodes) - before
            row("pace-redis", HEAD, {"shown": f"{count} commands in {took:.0f} s of idleness"})
            # What has a period of its own may fall into a short time once more.
            assert count <= took + (not LONG)
            await tasks[1].defer("second")
            await wait_until(lambda: ran == ["first", "second"])


async def test_as_35_a_job_waits_for_no_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who is told of nothing looks an hour later.
    monkeypatch.setattr("taskq_redis.waiting.LOOK", 3600.0)
    ran: list[int] = []
    with valkey.single(tmp_path) as server:
        app, other = App(server.url), App(server.url)

        async def note(number: int) -> None:
            ran.append(number)

        (_, task) = [each.task(name="note", idempotent=True)(note) for each in (app, other)]
        async with other, app, app.working():
            for number in range(50):
                await task.defer(number)
                await wait_until(partial(ran.__contains__, number))


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="it measures: make test-long")
async def test_as_35_a_job_starts_soon_at_fifty_jobs_a_second(tmp_path: Path, row: Row) -> None:
    with valkey.single(tmp_path) as server:
        half, most = await waits_at_fifty_a_second(App(server.url))
    shown = f"from defer to start at 50 jobs/s: half within {half * 1000:.1f} ms, 99 % within {most * 1000:.0f} ms"
    row("pace-redis", HEAD, {"shown": shown})
    assert half <= 0.02
    assert most <= 0.25


@pytest.mark.parametrize("masters", [1, 3])
async def test_as_30_four_workers_of_five_hundred_slots_fit_a_server_of_thirty_connections(
    masters: int, tmp_path: Path
) -> None:
    ran: list[int] = []
    with servers(masters, tmp_path) as nodes:
        for node in nodes:
            command(node, "CONFIG", "SET", "maxclients", 30)
        apps = [App(nodes[0].url, slots=500) for _ in range(4)]

        async def count(number: int) -> None:
            await anyio.sleep(0.01)
            ran.append(number)

        (task, *_) = [app.task(name="count", idempotent=True)(count) for app in apps]
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app)
                await stack.enter_async_context(app.working())
            await apps[0].defer_many(task.call(n) for n in range(5000))
            most = 0
            while len(ran) < 5000:
                # One of them is this question's.
                most = max(most, *(len(command(node, "CLIENT", "LIST").splitlines()) - 1 for node in nodes))
                await anyio.sleep(0.05)
        assert sorted(ran) == list(range(5000))
        assert most <= 4 * 4
