"""Stories of hours and days on SQS, in which a quarter of an hour is a second: alone, and with a companion.

They take minutes, and are collected with the long tests alone.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from taskq import App, current
from taskq.job import JobRef
from taskq.report import read_outcome
from taskq.retry import Retry
from taskq.testing.faults import sqs_front
from tests.backends.sqs.deployment import Tenant, ask
from tests.servers.process import Process

pytestmark = [pytest.mark.anyio, pytest.mark.long]

QUARTER = 900.0
DELAYS = {"16 min": 960.0, "24 h": 86_400.0}
BACKOFFS = {"20 min": 1_200.0, "13 h": 46_800.0}


def task_of(backoff: str) -> str:
    return f"after-{backoff.replace(' ', '-')}"


async def wait_until(check: Callable[[], object]) -> None:
    with anyio.fail_after(200):
        while not check():  # noqa: ASYNC110 a worker can only be asked after
            await anyio.sleep(0.05)


@pytest.fixture(params=["alone", "with a companion"])
def companion(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "alone" else f"sqlite:///{tmp_path}/companion.db"


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS delays for a second at most, and lets nobody hold a message for more than eight."""
    for module in ("message", "connect", "extender"):
        for name, value in (("MAX_DELAY", 1), ("MAX_LEASE", 8.0)):
            monkeypatch.setattr(sys.modules[f"taskq_sqs.{module}"], name, value, raising=False)


@pytest.mark.usefixtures("scaled")
@pytest.mark.timeout(600)
async def test_as_25_no_delay_is_too_long_and_none_ends_early_though_workers_come_and_go(
    sqs: Process, companion: str | None, report: Callable[[str, str], None]
) -> None:
    tenant = Tenant(sqs)
    deferred: dict[str, float] = {}
    late: dict[str, float] = {}

    def app_of() -> App:
        app = App(tenant.url, companion=companion)

        @app.task(name="wait", idempotent=True, keep=600 if companion else 0)
        async def wait(name: str) -> None:
            late[name] = time.monotonic() - deferred[name]

        for name, seconds in BACKOFFS.items():

            @app.task(name=task_of(name), idempotent=True, retry=Retry.fixed(2, seconds / QUARTER))
            async def again(name: str) -> None:
                if current().attempt == 1:
                    deferred[name] = time.monotonic()
                    raise ConnectionError("by the test")
                late[name] = time.monotonic() - deferred[name]

        return app

    cancelled = ""
    wanted = {name: seconds / QUARTER for name, seconds in (DELAYS | BACKOFFS).items()}
    async with app_of() as app:
        for name in BACKOFFS:
            await app.find_task(task_of(name)).defer(name)
        for queue in tenant.queues():
            # A minute, the shortest there is, in place of 14 days: one of the jobs waits for longer.
            ask(sqs, "SetQueueAttributes", QueueUrl=queue, Attributes={"MessageRetentionPeriod": "60"})
        for name in DELAYS:
            deferred[name] = time.monotonic()
            await app.find_task("wait").options(delay=wanted[name]).defer(name)
        if companion is not None:
            job = await app.find_task("wait").options(delay=30 * 86_400 / QUARTER).defer("30 days")
            assert await job.cancel()
            cancelled = job.id
    restarts = 0
    while late.keys() != wanted.keys():
        restarts += 1
        async with app_of() as app, app.working():
            with anyio.move_on_after(2.5):
                while late.keys() != wanted.keys():  # noqa: ASYNC110 in any order
                    await anyio.sleep(0.05)
    assert all(late[name] >= wanted[name] for name in wanted)
    if cancelled:
        async with app_of() as app:
            outcome = await app.outcome(JobRef("default", cancelled), wait=0)
        assert outcome is not None
        assert read_outcome(outcome).end == "cancelled"
    rows = "\n".join(f"| {name} | {late[name] - wanted[name]:.2f} |" for name in wanted)
    how = "SQS alone, in hops" if companion is None else "SQS with a companion"
    report(
        f"delays-sqs{'' if companion is None else '-companion'}",
        f"# Long delays on {how}\n\n"
        "A quarter of an hour is a second here: SQS delays for one at most, leases for eight, and keeps a message for "
        "a minute, which the day outlives. "
        f"Workers were stopped and started {restarts} times meanwhile. No job was early.\n\n"
        f"| delay, or backoff of a retry | s late |\n|---|---:|\n{rows}\n\nWritten by `make test-long`.\n",
    )


@pytest.mark.timeout(300)
async def test_as_27_a_job_that_runs_long_is_started_again_only_when_its_extensions_are_lost(
    sqs: Process, companion: str | None
) -> None:
    starts, ends = Counter[str](), Counter[str]()
    async with sqs_front(sqs.url) as front:
        app = App(Tenant(sqs, front.url).url, companion=companion, lease=3)

        @app.task(idempotent=True)
        async def work(name: str, seconds: float) -> None:
            starts[name] += 1
            await anyio.sleep(seconds)
            ends[name] += 1

        async with app, app.working():
            await work.defer("long", 120.0)
            await wait_until(lambda: ends["long"])
            assert starts["long"] == 1
            await work.defer("cut off", 8.0)
            await wait_until(lambda: starts["cut off"])
            front.refusing = {"ChangeMessageVisibilityBatch": "RequestThrottled"}
            await wait_until(lambda: ends["cut off"] if companion else starts["cut off"] == 2)
            front.refusing = {}
            await wait_until(lambda: ends["cut off"])
    # The first copy was cancelled when its lease was over. A companion keeps the lease itself.
    assert starts["cut off"] == (1 if companion else 2)
    assert ends["cut off"] == 1


@pytest.mark.usefixtures("scaled")
async def test_as_27_a_job_of_more_than_twelve_hours_is_handed_over_or_goes_on(
    sqs: Process, companion: str | None
) -> None:
    app = App(Tenant(sqs).url, companion=companion, lease=2)
    starts: list[tuple[int, int]] = []
    done = anyio.Event()

    @app.task(idempotent=True)
    async def work() -> None:
        starts.append((current().attempt, current().losses))
        if len(starts) == 1:
            await anyio.sleep(12)
        done.set()

    async with app, app.working():
        await work.defer()
        with anyio.fail_after(60):
            await done.wait()
    # Alone it is asked to end two leases before SQS would give it to another.
    assert [attempt for attempt, _ in starts] == ([1] if companion else [1, 1])
