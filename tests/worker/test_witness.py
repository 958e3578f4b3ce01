"""What is known of a worker that died under a job: told before, by itself, and found when the job is set aside."""

import asyncio
import os
import threading
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from taskq import App, Death
from taskq.errors import JobLost
from taskq.events import JobFinished
from taskq.outcome import Policy
from taskq.report import Ended, LastSeen, read_outcome
from taskq.testing import VirtualClock
from taskq.worker.register import workers
from taskq.worker.run import Run
from taskq.worker.witness import Witness, last_seen
from tests.worker.moves import a_delivery, heard, lose, wait_until
from tests.worker.tap import Tap
from tests.worker.test_dead_workers import doomed

pytestmark = pytest.mark.anyio


async def set_aside(app: App) -> Ended:
    (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=10)
    return read_outcome(dead.outcome or b"")


async def test_the_dead_letter_of_a_poison_job_tells_of_the_worker_that_died_last(url: str) -> None:
    app = App(url)
    ends, told, begun = heard(app, JobFinished), list[Death](), list[int]()

    @app.task(queue="told", idempotent=True)
    async def tell(death: Death) -> None:
        told.append(death)

    @app.task(on_dead=tell.name, idempotent=True)
    async def poison() -> None:
        begun.append(1)
        await wait_until(lambda: False)

    async with app:
        job = await poison.defer()
        await lose(app, 2)
        async with doomed(app, 1) as worker:
            await wait_until(lambda: begun)
            # Told again with each extension of its lease: then it is known where it was.
            await worker.pools[0].settler._extend()  # pyright: ignore[reportPrivateUsage] - the next is in ten seconds
        await app.run_worker(until="idle")
        ended = await set_aside(app)
        reasons = (await app.explain(job.id)).reasons
    seen = ended.worker
    assert seen is not None
    assert (ended.end, ended.losses, seen.pid, seen.beside) == ("quarantined", 3, os.getpid(), ())
    assert seen.memory > 0
    assert seen.at is not None
    assert "wait_until" in seen.stack
    assert seen.worker in ended.reason
    assert [death.worker for death in told] == [seen]
    assert [event.reason for event in ends if event.end == "quarantined"] == [ended.reason]
    (why,) = [because for reason in reasons for because in reason.because if because.kind == "last_worker"]
    assert seen.worker in why.text
    assert [because.text for because in why.because] == [seen.stack.rstrip()]


async def test_a_run_that_blocks_the_loop_is_told_of_with_the_place_where_it_does() -> None:
    app = App("memory://")
    run = Run(a_delivery(losses=2), Policy())
    run.started, run.fiber = asyncio.get_running_loop().time(), asyncio.current_task()
    async with app:
        store = app.store
        witness = Witness(store, "w", lambda: [run])
        await witness.begin(run)
        lost = replace(run.delivery, losses=3)
        assert [seen and seen.stack for seen in await last_seen(store, [lost])] == [""]

        def tell() -> None:
            asyncio.run(witness.tell(store, run))

        teller = threading.Thread(target=tell)
        teller.start()
        teller.join()
        (seen,) = await last_seen(store, [lost])
    assert seen is not None
    assert "in test_a_run_that_blocks_the_loop" in seen.stack


@pytest.mark.parametrize(("losses", "max_losses", "told"), [(0, 1, False), (0, 3, False), (1, 3, False), (1, 2, True)])
async def test_only_the_run_whose_loss_would_be_the_last_is_told_of(losses: int, max_losses: int, told: bool) -> None:
    run = Run(a_delivery(losses=losses), Policy(max_losses=max_losses))
    run.started = 0.0
    async with App("memory://") as app:
        assert Witness(app.store, "w", list).tells_of(run) is told


async def test_of_a_first_run_the_entry_of_its_worker_is_what_is_known(url: str) -> None:
    app = App(url, grace=0)
    running: list[int] = []

    @app.task(delivery="at_most_once")
    async def once() -> None:
        running.append(1)
        await wait_until(lambda: False)

    async with app, app.working(slots=2) as worker:
        await app.defer_many([once.call(), once.call()])
        await wait_until(lambda: len(running) == 2)
        lost = [replace(run.delivery, losses=1) for run in worker.running]
        seen: Sequence[LastSeen | None] = ()
        while not seen or None in seen:
            await workers(app.store, app.backend.hints)
            seen = await last_seen(app.store, lost)
        assert [(one.worker, one.beside) for one in seen if one] == [(worker.id, (once.name,))] * 2
        stranger = replace(lost[0], job=replace(lost[0].job, id="another"))
        assert await last_seen(app.store, [stranger]) == [None]


async def test_a_store_that_is_away_keeps_no_job_from_being_set_aside(tap: Tap, clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(delivery="at_most_once", keep=600)
    async def once() -> None: ...

    async with app:
        job = await once.defer()
        await lose(app, 1)
        async with app.working():
            tap.store_is_away = True
            await clock.advance(5)
            tap.store_is_away = False
        assert (await set_aside(app)).worker is None
        with pytest.raises(JobLost):
            await job.result()
