"""What users' tests stand on: working jobs off, and looking at what was deferred."""

from collections.abc import Callable

import pytest

from taskq import App, Retry, RetryIn
from taskq.errors import JobFailed
from taskq.testing import VirtualClock, assert_deferred, deferred, run_until_idle

pytestmark = pytest.mark.anyio
pytest_plugins = "pytester"


async def test_what_is_due_is_worked_off_and_what_that_defers(url: str) -> None:
    app = App(url)
    seen: list[int] = []

    @app.task
    async def count_down(n: int) -> None:
        seen.append(n)
        if n:
            await count_down.defer(n - 1)

    async with app:
        await count_down.defer(3)
        later = await count_down.options(delay=3600).defer(9)
        worked = await run_until_idle(app)
        assert seen == [3, 2, 1, 0]
        assert [event.end for event in worked.finished] == ["returned"] * 4
        assert await later.status() == "later"


async def test_what_is_scheduled_is_worked_off_under_a_virtual_clock(clock: VirtualClock) -> None:
    app = App("memory://")
    seen: list[tuple[int, float]] = []

    @app.task
    async def note(n: int) -> None:
        seen.append((n, round(clock.time())))

    async with app:
        await note.options(delay=86_400).defer(1)
        await note.options(delay=3600).defer(2)
        await run_until_idle(app, until="empty")
        assert seen == [(2, 3600), (1, 86_400)]


async def test_retries_are_worked_off_to_their_end_under_a_virtual_clock(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(retry=Retry.fixed(3, 3600))
    async def fail() -> None:
        raise ValueError("no")

    async with app:
        await fail.defer()
        worked = await run_until_idle(app, until="empty")
        assert [event.end for event in worked.finished] == ["failed"]
        assert [str(failure) for failure in worked.failures] == ["no"] * 3
        assert clock.time() == pytest.approx(7200)


async def test_idle_leaves_what_is_scheduled_under_a_virtual_clock(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def later() -> None: ...

    async with app:
        job = await later.options(delay=60).defer()
        await run_until_idle(app)
        assert await job.status() == "later"
        assert clock.time() == 0


async def test_a_queue_nobody_serves_ends_the_run(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def idle() -> None: ...

    async with app:
        job = await idle.options(queue="elsewhere").defer()
        await run_until_idle(app, until="empty")
        assert await job.status() == "ready"
        assert clock.time() == 0


async def test_a_failure_is_raised_as_it_was(url: str) -> None:
    app = App(url)

    @app.task
    async def fail() -> None:
        raise ZeroDivisionError("by the test")

    async with app:
        await fail.defer()
        with pytest.raises(ZeroDivisionError, match="by the test"):
            await run_until_idle(app, raise_failures=True)


async def test_several_failures_are_raised_together() -> None:
    app = App("memory://")

    @app.task
    async def fail(n: int) -> None:
        raise ValueError(n)

    async with app:
        await fail.defer(1)
        await fail.defer(2)
        with pytest.raises(ExceptionGroup) as caught:
            await run_until_idle(app, raise_failures=True)
        assert [str(error) for error in caught.value.exceptions] == ["1", "2"]


async def test_a_signal_is_no_failure_and_a_quarantine_is_one() -> None:
    app = App("memory://")

    @app.task
    async def again() -> None:
        raise RetryIn(3600)

    @app.task
    async def poison() -> None: ...

    async with app:
        await again.defer()
        await run_until_idle(app, raise_failures=True)
        await poison.options(attempts=1).defer()
        for _ in range(3):
            await app.backend.broker.fetch(["default"], 1, lease=0, wait=0)
        with pytest.raises(JobFailed, match="quarantined"):
            await run_until_idle(app, raise_failures=True)


async def test_deferred_jobs_are_shown_with_typed_arguments(url: str) -> None:
    app = App(url)

    @app.task(queue="mail")
    async def send(to: str, *, copies: int = 1) -> None: ...

    async with app:
        await send.defer("a@example.org")
        await send.options(delay=60, priority=3).defer("b@example.org", copies=2)
        first, second = sorted(await deferred(app), key=lambda job: job.record.job.priority)
        assert (first.task, first.arguments) == (send.name, {"to": "a@example.org", "copies": 1})
        assert second.arguments == {"to": "b@example.org", "copies": 2}
        assert (second.record.state, second.record.job.priority) == ("later", 3)


async def test_asserting_a_defer_finds_it_or_says_what_there_is() -> None:
    app = App("memory://")

    @app.task(name="send")
    async def send(to: str, copies: int = 1) -> None: ...

    @app.task
    async def other() -> None: ...

    async with app:
        with pytest.raises(AssertionError, match="nothing"):
            await assert_deferred(app, send)
        await send.defer("a@example.org")
        await send.defer("b@example.org")
        await assert_deferred(app, send)
        await assert_deferred(app, send, count=2)
        (job,) = await assert_deferred(app, send, count=1, to="a@example.org")
        assert job.arguments["copies"] == 1
        await assert_deferred(app, other, count=0)
        with pytest.raises(AssertionError, match=r"(?s)send\(to='c@example.org'\): 0 deferred.*a@example.org"):
            await assert_deferred(app, send, to="c@example.org")
        with pytest.raises(AssertionError, match="2 deferred, 1 expected"):
            await assert_deferred(app, send, count=1)
        await run_until_idle(app)
        await assert_deferred(app, send, count=0)


async def test_an_app_moves_to_memory_for_a_test(taskq_app: Callable[[App], App]) -> None:
    app = taskq_app(App("nosuch://anywhere"))

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        job = await answer.defer()
        await run_until_idle(app)
        assert await job.result() == 42


PROJECT = """
from taskq import App
from taskq.testing import run_until_idle

app = App("sqlite:///taskq.db", slots=7)

@app.task
async def double(n: int) -> int:
    return 2 * n

def test_on_memory(taskq_app, taskq_clock):
    async def main():
        async with taskq_app(app):
            job = await double.options(delay=86_400).defer(21)
            await run_until_idle(app, until="empty")
            assert await job.result() == 42
    taskq_clock.run(main())

def test_afterwards():
    assert app.settings.url == "sqlite:///taskq.db"
"""


async def test_a_project_uses_the_fixtures_without_asking_for_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PROJECT)
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    assert not list(pytester.path.glob("*.db"))


async def test_a_project_without_taskq_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing():\n    assert True\n")
    result = pytester.runpytest_subprocess("-W", "error", "--strict-markers", "--strict-config")
    result.assert_outcomes(passed=1)
