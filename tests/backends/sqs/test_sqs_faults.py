"""What SQS may do to its callers on a bad day loses no job; and what calls cost on a good one."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from taskq import App, current
from taskq.errors import BrokerUnavailable
from taskq.events import JobFinished, JobRepeated
from taskq.retry import Retry
from taskq.task import Task
from taskq.testing.faults import Rates, sqs_front
from tests.backends.sqs.deployment import Tenant
from tests.servers.process import Process

pytestmark = pytest.mark.anyio

BAD = Rates(double=0.05, shuffle=0.2, late=0.03, expire=0.02, partly=0.03, throttle=0.02, fail=0.02, cut=0.01)
JOBS = 20_000 if os.environ.get("TASKQ_TEST_LONG") else 1_500


async def defer_all(app: App, note: Task[[int], None], numbers: Iterable[int], again: set[int] | None = None) -> None:
    """As a client does who wants each of them enqueued at least once.

    With ``again``, under ids of its own, and those that it had to defer more than once are put there.
    """
    left: list[int] = list(numbers)
    while left:
        try:
            calls = [(note if again is None else note.options(id=f"note-{n}")).call(n) for n in left]
            answers = [answer async for answer in app.defer_each(calls)]
        except BrokerUnavailable:
            if again is not None:
                again.update(left)
            continue
        left = [n for n, answer in zip(left, answers, strict=True) if answer.error is not None]
        if again is not None:
            again.update(left)


async def test_what_comes_twice_in_one_answer_is_two_runs(sqs: Process) -> None:
    async with sqs_front(sqs.url, Rates(double=1.0)) as front:
        app = App(Tenant(sqs, front.url).url)
        begun, ended, both = Counter[int](), Counter[str](), anyio.Event()

        def note_end(event: JobFinished) -> None:
            ended[event.id] += 1

        app.events.subscribe(JobFinished, note_end)

        @app.task(idempotent=True)
        async def note(n: int) -> None:
            begun[n] += 1
            if begun[n] == 2:
                both.set()
            await both.wait()

        async with app:
            handle = await note.defer(1)
            async with app.working():
                with anyio.fail_after(30):
                    await both.wait()
    assert ended[handle.id] == begun[1] >= 2


@pytest.mark.long
async def test_a_bad_day_loses_no_job(sqs: Process) -> None:
    runs: Counter[int] = Counter()
    wanted = {n: 2 if n % 20 == 0 else 1 for n in range(JOBS)}
    aside: list[JobFinished] = []
    async with sqs_front(sqs.url, BAD, seed=1) as front:
        app = App(Tenant(sqs, front.url, patience=2).url, lease=5, slots=200)

        def note_end(event: JobFinished) -> None:
            if event.end != "returned":
                aside.append(event)

        app.events.subscribe(JobFinished, note_end)

        # What SQS cannot count it takes for losses: on a slow machine a healthy job soon has three.
        @app.task(idempotent=True, retry=Retry.fixed(50, 0.01), max_losses=100)
        async def note(n: int) -> None:
            runs[n] += 1
            if runs[n] == 1 and n % 20 == 0:
                raise ConnectionError("by the test")

        async with app, app.working():
            with anyio.fail_after(JOBS / 15):
                for first in range(0, JOBS, 500):
                    await defer_all(app, note, range(first, first + 500))
                    # An emulator grows slow with its queue.
                    while not aside and len(runs) < first - 500:  # noqa: ASYNC110 in any order
                        await anyio.sleep(0.1)
                while not aside and any(runs[n] < wanted[n] for n in wanted):  # noqa: ASYNC110 in any order
                    await anyio.sleep(0.1)
    assert not aside
    twice = sum(runs[n] > wanted[n] for n in wanted)
    print(f"{JOBS} jobs, lost 0, run more often than wanted {twice}; {dict(front.done)}; {dict(front.calls)}")  # noqa: T201 the figures
    assert set(front.done) == {name for name in Rates.__struct_fields__ if getattr(BAD, name)}
    assert twice


@pytest.mark.long
async def test_as_26_with_a_companion_no_message_doubles_an_effect(
    sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deferred once has one effect. What a client deferred again, not knowing that it had got through and was
    done meanwhile, is another job, as on every backend."""
    monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db?synchronous=normal")
    effects: Counter[int] = Counter()
    again: set[int] = set()
    aside: list[JobFinished] = []
    repeated: list[JobRepeated] = []
    async with sqs_front(sqs.url, BAD, seed=1) as front:
        app = App(Tenant(sqs, front.url, patience=2).url, slots=200)

        def note_end(event: JobFinished) -> None:
            if event.end != "returned":
                aside.append(event)

        app.events.subscribe(JobFinished, note_end)
        app.events.subscribe(JobRepeated, repeated.append)

        @app.task(idempotent=False, retry=Retry.fixed(50, 0.01))
        async def note(n: int) -> None:
            if n % 20 == 0 and current().attempt == 1:
                raise ConnectionError("by the test")
            effects[n] += 1

        async with app, app.working():
            with anyio.fail_after(JOBS / 15):
                for first in range(0, JOBS, 500):
                    await defer_all(app, note, range(first, first + 500), again)
                    while not aside and len(effects) < first - 500:  # noqa: ASYNC110 in any order
                        await anyio.sleep(0.1)
                while not aside and len(effects) < JOBS:  # noqa: ASYNC110 in any order
                    await anyio.sleep(0.1)
    assert not aside
    assert {n for n, count in effects.items() if count > 1} <= again
    assert repeated
    twice = sum(count > 1 for count in effects.values())
    said = f"{len(again)} deferred again, {twice} of them run twice; {len(repeated)} messages too many"
    print(f"{JOBS} jobs, lost 0, doubled by messages 0; {said}; {dict(front.done)}")  # noqa: T201 the figures
