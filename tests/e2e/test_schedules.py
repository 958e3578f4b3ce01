"""Worker processes are stopped, continued and killed at random, and each tick is fired once."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import anyio
import pytest

from taskq import App
from tests.e2e.harness import LONG
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


class Crew:
    """Three worker processes."""

    def __init__(self, url: str, ran: Path) -> None:
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
    ran = tmp_path / "ran"
    ran.touch()
    app = App(url)

    @app.schedule("every 1s", name="report", overlap="skip")
    @app.task(name="report")
    async def report() -> None: ...

    random = Random(1)
    async with app:
        crew = Crew(url, ran)
        try:
            with anyio.fail_after(SOON):
                while not ran.read_text():  # noqa: ASYNC110 - other processes can only be asked after
                    await anyio.sleep(0.05)
            for _ in range(HARMS):
                await crew.harm(random)
                await anyio.sleep(random.uniform(0, 1))
            harmed = len(ran.read_text().split())
            with anyio.fail_after(SOON):
                while len(ran.read_text().split()) < harmed + 2:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.05)
        finally:
            for which in range(3):
                crew.kill(which)
        state = (await app.schedules.find("report")).state
    times = Counter(ran.read_text().split())
    assert set(times.values()) == {1}
    fired = [decided for decided in state.history if decided.verdict == "fired"]
    # Who was harmed had at most one in hand, as had who was killed at the end.
    assert len(fired) - HARMS - 3 <= len(times) <= len(fired)
    first, last = state.history[0].tick, state.last
    assert sum(decided.count for decided in state.history) == last - first + 1
