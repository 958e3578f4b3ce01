"""Effects under a key: once, whoever tries, and whatever dies in between."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, current
from taskq.connect import connect
from taskq.errors import ConfigError, JobFailed, MissingCapability
from taskq.events import JobAgain
from taskq.ledger.once import AGAIN, HELD, OnUnknown
from taskq.retry import Retry
from taskq.testing import VirtualClock, run_until_idle
from tests.worker.moves import SOON, hand_over, heard, wait_until

pytestmark = pytest.mark.anyio


def shop(url: str, charges: Counter[str], on_unknown: OnUnknown) -> App:
    """Charges an invoice once, says the task."""
    app = App(url, lease=3600)

    @app.task(name="charge", retry=Retry.fixed(4, 0.01))
    async def charge(invoice: str, fails: str = "") -> bool:
        async with current().once(f"charge {invoice}", on_unknown=on_unknown) as effect:
            if not effect.needed:
                return False
            if fails == "before" and current().attempt == 1:
                raise ConnectionError
            charges[invoice] += 1
            if fails == "after" and current().attempt == 1:
                raise ConnectionError
            return True

    return app


async def test_the_second_job_of_an_effect_finds_it_done(url: str) -> None:
    charges: Counter[str] = Counter()
    app = shop(url, charges, "raise")
    charge = app.find_task("charge")
    async with app, app.working():
        assert [await (await charge.defer("a")).result(SOON) for _ in range(3)] == [True, False, False]
    assert charges == {"a": 1}


async def test_what_became_of_a_broken_effect_is_for_the_caller_to_say(url: str) -> None:
    for on_unknown, fails, answers in (
        ("retry", "before", True),
        ("retry", "after", True),
        (lambda: True, "after", False),
        (lambda: False, "before", True),
    ):
        charges: Counter[str] = Counter()
        app = shop(url, charges, on_unknown)  # type: ignore[arg-type]
        async with app, app.working():
            assert await (await app.find_task("charge").defer(f"{on_unknown} {fails}", fails)).result(SOON) is answers
        assert charges.total() == (2 if (on_unknown, fails) == ("retry", "after") else 1)


async def test_an_unknown_effect_can_be_left_to_a_human(url: str) -> None:
    charges: Counter[str] = Counter()
    app = shop(url, charges, "raise")
    async with app, app.working():
        with pytest.raises(JobFailed, match=r"EffectUnknown: 'charge a' was started by job default/"):
            await (await app.find_task("charge").defer("a", "after")).result(SOON)
    assert charges == {"a": 1}


async def test_a_job_that_finds_another_one_at_its_effect_comes_back_when_it_is_done(clock: VirtualClock) -> None:
    app = App("memory://")
    again = heard(app, JobAgain)
    charges: list[str] = []

    @app.task
    async def charge() -> bool:
        async with current().once("charge", on_unknown="raise") as effect:
            if effect.needed:
                # Longer than the key is held without being renewed.
                await anyio.sleep(3 * HELD)
                charges.append(current().id)
            return effect.needed

    async with app:
        jobs = [await charge.defer() for _ in range(2)]
        await run_until_idle(app, until="empty", raise_failures=True)
        assert sorted([await job.result(0) for job in jobs]) == [False, True]
    assert len(charges) == 1
    assert {(event.after, event.counted) for event in again} == {(AGAIN, False)}
    assert clock.time() < 3 * HELD + 2 * AGAIN


async def test_an_effect_whose_worker_died_is_unknown_to_others_when_nobody_holds_it(clock: VirtualClock) -> None:
    app = App("memory://", lease=3600)
    charges: Counter[str] = Counter()
    stuck = anyio.Event()

    async def never() -> None:
        stuck.set()
        await anyio.sleep_forever()

    @app.task
    async def charge(dies: bool) -> bool:
        async with current().once("charge", on_unknown=lambda: bool(charges)) as effect:
            if not effect.needed:
                return False
            charges["a"] += 1
            if dies:
                await never()
            return True

    async with app:
        await charge.defer(dies=True)
        async with app.working() as dying:
            await stuck.wait()
            (run,) = dying.running
            assert run.fiber is not None
            # A process that has died renews nothing.
            for task in list(all_tasks_of("_renew")):
                task.cancel()
            dying.quiet(True)
            async with app.working():
                job = await charge.defer(dies=False)
                before = clock.time()
                assert await job.result(HELD + 10) is False
                assert HELD - 10 < clock.time() - before < HELD + 10
            run.fiber.cancel()
    assert charges == {"a": 1}


def all_tasks_of(name: str) -> Generator["asyncio.Task[object]"]:
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__name__", "") == name:
            yield task


async def test_a_key_is_forgotten_when_its_time_is_over(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def charge() -> bool:
        async with current().once("charge", on_unknown="raise", keep=3600) as effect:
            return effect.needed

    async with app:
        for passed, needed in ((0, True), (3500, False), (200, True)):
            await clock.advance(passed)
            assert await charge.run_inline() is needed


async def test_an_overtaken_run_does_not_call_its_effect_done(url: str) -> None:
    app = App(url, lease=3600)
    gates = [anyio.Event(), anyio.Event()]
    began: list[int] = []
    left: list[object] = []

    @app.task
    async def charge() -> int:
        losses = current().losses
        try:
            async with current().once("charge", on_unknown="retry"):
                began.append(losses)
                while not gates[losses].is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await gates[losses].wait()
        except Exception as error:
            left.append(error)
            raise
        return losses

    async with app:
        job = await charge.defer()
        async with app.working() as first:
            await wait_until(lambda: began)
            (run,) = first.running
            first.quiet(True)
            async with app.working():
                await hand_over(app, run, lambda: began == [0, 1])
                gates[0].set()
                await wait_until(lambda: left)
                gates[1].set()
                assert await job.result(SOON) == 1
    assert "was taken over by job" in str(left[0])


async def test_wrong_options_of_once_are_refused() -> None:
    app = App("memory://")

    @app.task
    async def charge() -> None:
        async with current().once("charge", on_unknown="ignore"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            pass

    async with app:
        with pytest.raises(ConfigError, match='choose "retry" or "raise", or give a function'):
            await charge.run_inline()


# Transactions


async def test_what_is_written_and_deferred_in_a_transaction_is_there_together_or_not_at_all(url: str) -> None:
    app = App(url)

    @app.task
    async def child(n: int) -> int:
        return n

    @app.task(retry=Retry.never())
    async def parent(fails: bool) -> None:
        async with current().transaction() as outer, current().transaction() as inner:
            assert outer is inner is current().connection
            await child.options(id=f"child {fails}").defer(1)
            if fails:
                raise ValueError
        assert current().connection is None

    async with app:
        for fails in (False, True):
            await parent.defer(fails)
        await run_until_idle(app)
        first, second = [await child.options(id=f"child {fails}", delay=3600).defer(2) for fails in (False, True)]
        assert (await first.status(), await second.status()) == ("later", "later")


async def test_a_broker_that_is_no_database_has_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def without(url: str) -> AsyncGenerator[object]:
        async with connect(url) as backend:
            yield replace(backend, transactions=None, store=None)

    monkeypatch.setattr("taskq.opening.connect", without)
    app = App("memory://")

    @app.task
    async def write() -> None:
        async with current().transaction():
            pass

    @app.task
    async def note() -> None:
        current().progress(1)

    async with app:
        for task in (write, note):
            with pytest.raises(MissingCapability):
                await task.run_inline()
