"""AS-01: a job over many recipients goes on where it was, after a deploy and after a kill: real processes."""

from collections import Counter
from pathlib import Path

import anyio
import pytest

from tests.e2e.conftest import STORIES
from tests.e2e.harness import PATIENCE, Crew, Fleet, client

pytestmark = [pytest.mark.anyio, STORIES]

RECIPIENTS = 1000
CUT = 300
SECONDS = 0.002
"""For each mail: the story's 100 ms, fifty times as fast."""


def mailed(domain: Path) -> list[int]:
    log = domain.with_name("mailed.log")
    return [int(line) for line in log.read_text().split()] if log.exists() else []


async def mailed_up_to(domain: Path, count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while len(mailed(domain)) < count:  # noqa: ASYNC110 another process's doings can only be asked after
            await anyio.sleep(0.01)


async def test_a_deploy_in_the_middle_mails_everybody_once(url: str, tmp_path: Path) -> None:
    # With a lease of an hour nothing but the hand-over lets the second worker go on.
    with Fleet(tmp_path, Crew(url=url, workers=2, lease=3600.0, grace=0.5)) as fleet:
        async with client(fleet) as customer:
            fleet.start(0)
            await customer.defer(customer.calls("mailing", [[RECIPIENTS, SECONDS]]))
            await mailed_up_to(fleet.domain, CUT)
            fleet.start(1)
            fleet.terminate(0)
            assert await fleet.ended(0) == 0
            before = len(mailed(fleet.domain))
            await customer.drained()
            fleet.terminate(1)
            assert await fleet.ended(1) == 0
        assert mailed(fleet.domain) == list(range(RECIPIENTS))
        assert CUT <= before < RECIPIENTS


async def test_a_kill_in_the_middle_repeats_the_one_mail_it_cut_at_most(url: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, Crew(url=url, workers=1, lease=1.0)) as fleet:
        async with client(fleet) as customer:
            fleet.start(0)
            await customer.defer(customer.calls("mailing", [[RECIPIENTS, SECONDS]]))
            await mailed_up_to(fleet.domain, CUT)
            fleet.kill(0)
            await customer.drained(fleet.revive)
    times = Counter(mailed(fleet.domain))
    assert set(times) == set(range(RECIPIENTS))
    assert sum(times.values()) <= RECIPIENTS + 1
