"""What SQS may do to its callers on a bad day loses no job; and what calls cost on a good one."""

import os
import platform
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from taskq_sqs.faults import PASSING

from taskq import App, current
from taskq.errors import BrokerUnavailable
from taskq.events import JobFinished, JobRepeated
from taskq.retry import Retry
from taskq.task import Task
from taskq.testing.faults import Front, Rates, sqs_front
from tests.backends.sqs.deployment import Tenant
from tests.servers.process import Process

pytestmark = pytest.mark.anyio

BAD = Rates(double=0.05, shuffle=0.2, late=0.03, expire=0.02, partly=0.03, throttle=0.02, fail=0.02, cut=0.01)
JOBS = 20_000 if os.environ.get("TASKQ_TEST_LONG") else 1_500


def fault_report(name: str, front: Front, figures: Mapping[str, int]) -> str:
    """What a run has shown, as a page."""
    tables = [
        ("", "jobs", {"deferred": JOBS, "lost": 0, **figures}),
        ("fault", "times", dict(sorted(front.done.items()))),
        ("call", "times", dict(sorted(front.calls.items()))),
    ]
    shown = "\n\n".join(
        "\n".join([f"| {left} | {right} |", "|---|---:|", *(f"| {what} | {times} |" for what, times in rows.items())])
        for left, right, rows in tables
    )
    return (
        f"# A bad day of {name}\n\n"
        "Before an emulator stands `taskq.testing.faults.sqs_front`, which doubles messages (at once, later, and after "
        "they were deleted), shuffles and delays them, lets leases lapse at once, says that entries of a batch failed "
        "and carries out half of them all the same, throttles, answers 5xx before or after a call was carried out, and "
        "loses answers. One job of twenty fails at its first attempt.\n\n"
        f"{shown}\n\nWritten by `make test-long`, seed 1, Python {platform.python_version()}.\n"
    )


def ledger_of(file: Path) -> tuple[int, int, int]:
    """How many jobs are remembered, with how many bytes, and how many of them for long."""
    with closing(sqlite3.connect(file)) as database:
        rows = "FROM taskq_keys WHERE key LIKE 'companion:job:%'"
        count, size = database.execute(f"SELECT count(*), sum(length(key) + length(value)) {rows}").fetchone()
        long = f"SELECT count(*) {rows} AND until > unixepoch() + 3600 + 60"
        return count, size, database.execute(long).fetchone()[0]


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


@pytest.mark.parametrize("code", ["ExpiredToken", "OverLimit", "RequestThrottled"])
async def test_what_is_refused_for_a_while_is_done_when_it_is_not(sqs: Process, code: str) -> None:
    async with sqs_front(sqs.url) as front:
        tenant = Tenant(sqs, front.url)
        app = App(tenant.url)
        runs, begun, proceed = Counter[int](), anyio.Event(), anyio.Event()

        @app.task(idempotent=True)
        async def note(n: int) -> None:
            runs[n] += 1
            begun.set()
            await proceed.wait()

        async with app, app.working():
            with anyio.fail_after(60):
                await note.defer(1)
                await begun.wait()
                before = Counter(front.calls)
                front.refusing = dict.fromkeys(("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"), code)
                with pytest.raises(BrokerUnavailable, match=PASSING[code]):
                    await note.defer(2)
                proceed.set()
                refused = ("ReceiveMessage", "DeleteMessageBatch")
                while any(front.calls[action] < before[action] + 2 for action in refused):  # noqa: ASYNC110 it has to be told so
                    await anyio.sleep(0.02)
                front.refusing = {}
                await note.defer(3)
                while runs.keys() < {1, 3} or await tenant.residue():  # noqa: ASYNC110 a server can only be asked
                    await anyio.sleep(0.05)
    assert runs == {1: 1, 3: 1}


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_bad_day_loses_no_job(sqs: Process, report: Callable[[str, str], None]) -> None:
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
    report("faults-sqs", fault_report("SQS", front, {"set aside": 0, "run more often than they would have": twice}))
    assert set(front.done) == {name for name in Rates.__struct_fields__ if getattr(BAD, name)}
    assert twice


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_as_26_with_a_companion_no_message_doubles_an_effect(
    sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[[str, str], None]
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

        @app.task(retry=Retry.fixed(50, 0.01))
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
    remembered, size, longer = ledger_of(tmp_path / "companion.db")
    assert longer <= remembered <= JOBS
    twice = sum(count > 1 for count in effects.values())
    figures = {
        "effects doubled by messages": 0,
        "deferred again by a client that was not answered": len(again),
        "of these run twice, as another job": twice,
        "messages recognised as one too many (`JobRepeated`)": len(repeated),
        "ended ids that are remembered": remembered,
        "of these for more than an hour and a lease, for another message of theirs may come": longer,
        "bytes to a remembered id": size // max(remembered, 1),
    }
    report("faults-sqs-companion", fault_report("SQS with a companion", front, figures))
