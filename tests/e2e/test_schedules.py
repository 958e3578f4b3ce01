"""Worker processes are stopped, continued and killed at random, servers fail over, and each tick is fired once."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import pytest
from msgspec import Struct

from taskq import App
from tests.e2e.harness import LONG
from tests.servers import valkey
from tests.servers.process import Process
from tests.worker.moves import SOON

pytestmark = [pytest.mark.anyio, pytest.mark.long]

HARMS = 30 if LONG else 3
PROGRAM = """
import asyncio, sys
from taskq import App, current

app = App(sys.argv[1], lease=2.0)

@app.schedule("every 1s", name="report", overlap="skip")
# A worker that is harmed right here costs the run: no tick has two.
@app.task(name="report", delivery="at_most_once")
async def report() -> None:
    # One write is one line, whoever else writes.
    with open(sys.argv[2], "a", buffering=1) as ran:
        ran.write(current().id + "\\n")

print("ready", flush=True)
asyncio.run(app.run_worker())
"""


def ids_in(ran: Path) -> list[str]:
    """Of the jobs that ran."""
    return ran.read_text().split()


class Crew:
    """Three worker processes."""

    def __init__(self, url: str, ran: Path) -> None:
        ran.touch()
        self._arguments = [sys.executable, "-c", PROGRAM, url, str(ran)]
        self.processes = [self.start() for _ in range(3)]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._arguments, stdout=subprocess.DEVNULL, text=True)

    def kill(self, which: int) -> None:
        self.processes[which].kill()
        self.processes[which].wait()

    async def harm(self, random: Random) -> None:
        """Stop one for a while, or kill one and start another."""
        which = random.randrange(3)
        if random.random() < 0.3:
            self.kill(which)
            self.processes[which] = self.start()
        else:
            self.processes[which].send_signal(signal.SIGSTOP)
            await anyio.sleep(random.uniform(0.1, 2.5))
            self.processes[which].send_signal(signal.SIGCONT)


async def test_each_tick_is_fired_once_whatever_happens_to_the_processes(url: str, tmp_path: Path) -> None:
    random = Random(1)

    async def harm(crew: Crew) -> None:
        await crew.harm(random)
        await anyio.sleep(random.uniform(0, 1))

    await fire_under(url, tmp_path / "ran", harm)


class Failing(Struct, frozen=True):
    """Servers, and what fails over from one to the other, or lets one die and begin anew."""

    url: str
    fail: Callable[[], None]


@pytest.fixture(params=["sentinel", "postgres"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failing]:
    if request.param == "postgres":
        server: Process = request.getfixturevalue("own_postgres")

        def die() -> None:
            server.kill()
            server.start()

        yield Failing(f"{server.url}?migrate=1", die)
        return
    (tmp_path / "servers").mkdir()
    with valkey.watched(tmp_path / "servers") as watched:
        nodes = [watched.master, watched.replica]

        def fail_over() -> None:
            nodes[0].kill()
            nodes.reverse()
            promoted = f"address=127.0.0.1:{nodes[0].port}"
            valkey.await_all(watched.sentinels, promoted, "INFO sentinel", patience=2 * SOON)
            # Empty, and a replica that is waited for. Earlier it would be taken for the master that it was.
            nodes[1].start()
            valkey.await_all(nodes[1:], "master_link_status:up\r", "INFO replication", patience=2 * SOON)

        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
        yield Failing(f"redis+sentinel://{places}/{watched.name}?wait_replicas=1&patience=1", fail_over)


@pytest.mark.skipif(not LONG, reason="half a minute for each failover: make test-long")
@pytest.mark.timeout(600)
async def test_as_29_no_tick_is_fired_twice_when_servers_fail_over(failing: Failing, tmp_path: Path) -> None:
    async def fail(_crew: Crew) -> None:
        await anyio.to_thread.run_sync(failing.fail)
        await anyio.sleep(2)

    await fire_under(failing.url, tmp_path / "ran", fail, harms=3)


async def fire_under(url: str, ran: Path, harm: Callable[[Crew], Awaitable[None]], harms: int = HARMS) -> None:
    """Three processes fire a schedule while harm is done: each tick is decided once, and runs once at most."""
    app = App(url)

    @app.schedule("every 1s", name="report", overlap="skip")
    @app.task(name="report")
    async def report() -> None: ...

    async def until_run(times: int) -> None:
        with anyio.fail_after(2 * SOON):
            while len(ids_in(ran)) < times:  # noqa: ASYNC110 - other processes can only be asked after
                await anyio.sleep(0.05)

    async with app:
        crew = Crew(url, ran)
        try:
            await until_run(1)
            for _ in range(harms):
                await harm(crew)
            await until_run(len(ids_in(ran)) + 2)
        finally:
            for which in range(3):
                crew.kill(which)
        state = (await app.schedules.find("report")).state
    times = Counter(ids_in(ran))
    assert set(times.values()) == {1}
    fired = [decided for decided in state.history if decided.verdict == "fired"]
    # Who was harmed had at most one in hand, as had who was killed at the end.
    assert len(fired) - harms - 3 <= len(times) <= len(fired)
    first, last = state.history[0].tick, state.last
    assert sum(decided.count for decided in state.history) == last - first + 1
