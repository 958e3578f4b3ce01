"""What workers cost Redis in commands and connections."""

from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from taskq import App
from tests.backends.redis.deployment import command
from tests.servers import valkey
from tests.servers.process import Process
from tests.worker.moves import wait_until

pytestmark = pytest.mark.anyio

PERIOD = 6.0
"""Seconds of idleness that are counted."""


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
    masters: int, tmp_path: Path
) -> None:
    ran: list[str] = []

    async def note(word: str) -> None:
        ran.append(word)

    with servers(masters, tmp_path) as nodes:
        app, other = App(nodes[0].url, queues=("a", "b", "c")), App(nodes[0].url)
        tasks = [each.task(name="note", queue="b", idempotent=True)(note) for each in (app, other)]
        async with other, app, app.working():
            await tasks[1].defer("first")
            await wait_until(lambda: ran == ["first"])
            # The end of that job, and the looks after it.
            await anyio.sleep(1.0)
            before, began = sent(nodes), anyio.current_time()
            await anyio.sleep(PERIOD)  # how much is sent in a time is what this is about
            # What has a period of its own may fall into it once more.
            assert sent(nodes) - before <= anyio.current_time() - began + 1
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


async def test_as_30_four_workers_of_five_hundred_slots_fit_a_server_of_thirty_connections(tmp_path: Path) -> None:
    ran: list[int] = []
    with valkey.single(tmp_path, options=["--maxclients", "30"]) as server:
        apps = [App(server.url, slots=500) for _ in range(4)]

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
                most = max(most, len(command(server, "CLIENT", "LIST").splitlines()) - 1)
                await anyio.sleep(0.05)
        assert sorted(ran) == list(range(5000))
        assert most <= 4 * 4
