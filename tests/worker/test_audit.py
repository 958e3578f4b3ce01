"""What is done by hand is remembered: as far as it is a person's, and for as long as it may matter."""

import pytest

from taskq import App
from taskq.audit import DAY, KEPT, MOST, acts_since, note
from taskq.errors import ConfigError
from taskq.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_acts_are_told_in_their_order_over_days_and_lapse(clock: VirtualClock) -> None:
    async with App("memory://") as app:
        await app.pause("mail", by="ada")
        await clock.advance(days=1)
        await app.resume("mail")
        assert [(act.by, act.verb) for act in await acts_since(app.store, 2 * DAY)] == [
            ("ada", "pause"),
            ("", "resume"),
        ]
        assert [act.verb for act in await acts_since(app.store, DAY / 2)] == ["resume"]
        await clock.advance(seconds=KEPT - DAY + 1)
        assert [act.verb for act in await acts_since(app.store, 2 * KEPT)] == ["resume"]


async def test_what_a_program_does_without_end_is_told_once_it_is_too_much(caplog: pytest.LogCaptureFixture) -> None:
    async with App("memory://") as app:
        await note(app.store, "purge", *(f"dead letter {number}" for number in range(MOST)), by="a script")
        assert not caplog.records
        await note(app.store, "purge", "dead letter 0", by="a script")
        assert "10000 acts of today are noted, and no more: purge dead letter 0 by a script is not" in caplog.text
        assert len(await acts_since(app.store, DAY)) == MOST


async def test_a_name_that_is_none_is_refused_before_anything_is_done() -> None:
    async with App("memory://") as app:
        with pytest.raises(ConfigError, match="name who does it"):
            await app.pause("mail", by="\n")
        with pytest.raises(ConfigError, match="name who does it"):
            await app.pause("mail", by="a" * 501)
        assert not await acts_since(app.store, DAY)
