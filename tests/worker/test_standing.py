"""A status that is derived: each state of a job in one word, and none that nobody has."""

import pytest

from taskq import App, Discard, current
from taskq.standing import Standing
from taskq.testing import VirtualClock, run_until_idle

pytestmark = pytest.mark.anyio


async def test_a_job_stands_as_it_does_and_says_since_when_and_why(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)

    @app.task(retry=2, keep=60)
    async def send(ends: str) -> None:
        if current().attempt == 1:
            assert (await send.handle(current().id).standing()).state == "running"
            raise ConnectionError("the provider is away")
        if ends == "failed":
            raise ConnectionError("and stays so")
        if ends == "stopped":
            raise Discard("nobody wants it")

    async with app:
        assert await send.handle("newsletter-7").standing() == Standing(state="unknown")
        handles = [await send.options(id=f"newsletter-{end}").defer(end) for end in ("done", "failed", "stopped")]
        first = await handles[0].standing()
        assert (first.state, first.attempt, first.reason) == ("waiting", 1, "")
        await run_until_idle(app)
        again = await handles[0].standing()
        assert (again.state, again.attempt, again.reason) == ("retrying", 2, "ConnectionError: the provider is away")
        assert again.moment is not None
        assert first.moment is not None
        assert again.moment > first.moment
        await clock.advance(minutes=1)
        await run_until_idle(app)
        ended = [await handle.standing() for handle in handles]
        assert [(one.state, one.attempt, one.reason) for one in ended] == [
            ("done", 2, ""),
            ("failed", 2, "ConnectionError: and stays so"),
            ("stopped", 2, "nobody wants it"),
        ]
        await clock.advance(minutes=2)
        assert (await handles[0].standing()).state == "unknown"
