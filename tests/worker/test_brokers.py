"""Several brokers in one app: each queue is on one of them, and one worker serves them all."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App, Concurrency, RateLimit, current
from taskq.errors import ConfigError, JobCancelled, PayloadTooLarge
from taskq.events import BrokerLost, BrokerRegained, JobFinished
from taskq.flow import BatchReport
from taskq.job import JobRef
from taskq.worker.sight import remark, trouble_ready
from tests.servers.fixtures import own_postgres as own_postgres
from tests.servers.fixtures import own_redis as own_redis
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.worker.moves import SOON, heard, wait_until

pytestmark = pytest.mark.anyio

POOLS = {"near": {"queues": ["near"], "slots": 3}, "far": {"queues": ["far", "far-*"], "slots": 3, "broker": "far"}}


@pytest.fixture
def far_url(url: str, tmp_path: Path) -> str:
    return "memory://" if url == "memory://" else f"sqlite:///{tmp_path}/far.db"


@pytest.fixture
def app(url: str, far_url: str) -> App:
    return App(url, brokers={"far": far_url}, pools=POOLS)


async def test_a_job_goes_to_the_broker_of_its_queue_and_everything_about_it_follows(
    app: App, url: str, far_url: str
) -> None:
    @app.task(keep=60)
    async def place() -> str:
        return current().queue

    near, far, tenant = (place.options(queue=queue) for queue in ("near", "far", "far-1"))
    async with app:
        handles = [await near.defer(), await far.defer()]
        handles += await app.defer_many([far.call(), near.call(), tenant.call()])
        assert [queue.queue for queue in await app.admin.stats()] == ["far", "far-1", "near"]
        assert [queue.ready for queue in await app.admin.stats(["near", "far"])] == [2, 2]
        if url != "memory://":
            async with App(far_url) as only_far:
                assert [queue.queue for queue in await only_far.admin.stats()] == ["far", "far-1"]
        found = await app.admin.find(handles[1].id)
        assert found is not None
        assert found.job.queue == "far"
        assert await app.cancel(JobRef("far", handles[2].id))
        async with app.working():
            ended = [handle for handle in handles if handle is not handles[2]]
            assert [await handle.result(SOON) for handle in ended] == ["near", "far", "near", "far-1"]
            with pytest.raises(JobCancelled):
                await handles[2].result(SOON)


async def test_dead_letters_of_all_brokers_are_revived_and_purged(app: App) -> None:
    failing = True

    @app.task(retry=1)
    async def fail() -> None:
        if failing:
            raise ValueError

    async with app:
        refs = [JobRef(queue, (await fail.options(queue=queue).defer()).id) for queue in ["near", "far", "near"]]
        await app.run_worker(until="idle")
        assert await app.admin.revive([*refs[:2], JobRef("far", "nobody")]) == ["revived", "revived", "unknown"]
        failing = False
        await app.run_worker(until="idle")
        assert await app.admin.purge(refs) == [False, False, True]


async def test_a_flow_crosses_brokers_and_ends_once(app: App) -> None:
    ran, reports = list[str](), list[BatchReport]()

    @app.task(queue="near")
    async def here(n: int) -> int:
        ran.append(current().queue)
        return n + 1

    @app.task(queue="far")
    async def there(n: int) -> int:
        ran.append(current().queue)
        return n + 1

    @app.task(queue="far-end")
    async def told(report: BatchReport) -> None:
        reports.append(report)

    async with app, app.working():
        chain = await app.defer(here.call(0).then(there.receiving()).then(here.receiving()))
        assert await chain.result(SOON) == 3
        assert ran == ["near", "far", "near"]
        async with app.batch("mixed", then=told.receiving()) as batch:
            await batch.add(task.call(n) for n in range(10) for task in (here, there))
        await wait_until(lambda: reports)
        assert (reports[0].total, reports[0].failed) == (20, 0)
    assert len(reports) == 1


async def test_limits_and_schedules_count_over_all_brokers(app: App) -> None:
    started: list[str] = []

    @app.task(limits=RateLimit(1, per=3600, name="all"))
    async def limited() -> None:
        started.append(current().queue)

    @app.schedule("every 1s", name="tick")
    @app.task(queue="far-ticks", limits=Concurrency(1, overlap="skip"))
    async def tick() -> None:
        started.append("tick")

    async with app:
        for queue in ["near", "far"]:
            await limited.options(queue=queue).defer()
        async with app.working():
            await wait_until(lambda: "tick" in started)
            await wait_until(lambda: {"near", "far"} & set(started))
        left = await app.admin.stats(["near", "far"])
    assert sum(queue.ready + queue.later for queue in left) == 1
    assert len({"near", "far"} & set(started)) == 1


async def test_a_queue_is_paused_on_its_broker(app: App) -> None:
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app, app.working():
        await app.pause("far")
        await anyio.sleep(1.2)  # What "within a second" promises.
        for queue in ["far", "near"]:
            await note.options(queue=queue).defer()
        await wait_until(lambda: ran == ["near"])
        await app.resume("far")
        await wait_until(lambda: ran == ["near", "far"])


async def test_a_transaction_takes_in_no_job_of_another_broker(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/near.db", brokers={"far": f"sqlite:///{tmp_path}/far.db"}, pools=POOLS)
    errors, ended = list[Exception](), heard(app, JobFinished)

    @app.task
    async def note() -> None: ...

    @app.task(queue="far", transaction=True, idempotent=True)
    async def write(queue: str) -> None:
        await note.options(queue="far-notes").defer()
        try:
            await note.options(queue=queue).defer()
        except ConfigError as error:
            errors.append(error)

    async with app:
        assert app.backend.transactions is not None
        async with app.backend.transactions.begin() as connection:
            await note.options(queue="near", tx=connection).defer()
            with pytest.raises(
                ConfigError, match=r"queue 'far' is on broker 'far', and this transaction is of .*'default'"
            ):
                await note.options(queue="far", tx=connection).defer()
            with app.transaction(connection), pytest.raises(ConfigError, match="is on broker 'far'"):
                await app.defer_many([note.options(queue="far").call()])
        await write.defer("near")
        await app.run_worker(until="idle")
    assert [str(error).partition(":")[2].partition(",")[0] for error in errors] == [
        " queue 'near' is on broker 'default'"
    ]
    assert sorted(event.queue for event in ended) == ["far", "far-notes", "near"]


async def test_what_a_call_needs_is_held_to_its_own_broker(tmp_path: Path) -> None:
    far = f"sqlite:///{tmp_path}/far.db?max_size=1000"
    app = App("memory://", brokers={"far": far}, pools=POOLS)

    @app.task(queue="near")
    async def note(text: str) -> None: ...

    async with app:
        await note.defer("x" * 2000)
        with pytest.raises(PayloadTooLarge):
            await note.options(queue="far").defer("x" * 2000)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"brokers": {"far": "memory://"}}, "broker 'far': no queue is on it: say broker = 'far' in the pool"),
        (
            {"brokers": {"far": "memory://"}, "pools": {"a": {"queues": ["a"], "broker": "fra"}}},
            r"no broker is named 'fra' \(known: default, far\)",
        ),
        ({"brokers": {"default": "memory://"}}, "broker 'default' is the one that the setting 'url' names"),
        ({"brokers": {"f/r": "memory://"}}, "broker 'f/r': its name is made of"),
        ({"brokers": {"far": 5}}, r"setting 'brokers.far' \(App\(...\)\): Expected `str`, got `int`"),
    ],
)
def test_brokers_that_make_no_sense_are_refused_with_the_remedy(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        App("memory://", **settings)


async def test_one_pool_of_queues_on_several_brokers_is_refused() -> None:
    app = App("memory://", brokers={"far": "memory://"}, pools=POOLS)
    async with app:
        with pytest.raises(ConfigError, match="queues near, far are on several brokers"):
            await app.run_worker(queues=["near", "far"])


@pytest.mark.parametrize("ended", ["own_redis", "own_postgres"])
async def test_a_broker_that_ends_and_comes_back_does_not_hinder_another(
    own_redis: Process, own_postgres: Process, ended: str, request: pytest.FixtureRequest
) -> None:
    app = App(queue_on(own_postgres), brokers={"far": queue_on(own_redis)}, pools=POOLS)
    lost, regained = heard(app, BrokerLost), heard(app, BrokerRegained)
    done: list[str] = []

    @app.task(idempotent=True)
    async def note() -> None:
        done.append(current().queue)

    down, up = ("far", "near") if ended == "own_redis" else ("near", "far")
    server: Process = request.getfixturevalue(ended)
    async with app, app.working() as worker:
        for queue in [up, down]:
            await note.options(queue=queue).defer()
        await wait_until(lambda: len(done) == 2 and not worker.look().held)
        server.kill()
        await wait_until(lambda: lost)
        # It is ready as long as one answers, and tells which does not.
        await wait_until(lambda: worker.look().away)
        name = lost[0].broker
        assert trouble_ready(worker.look(), 0.0) is None
        assert remark(worker.look(), 0.0) == f"but not on broker {name}, out of reach"
        for n in range(20):
            await note.options(queue=up).defer()
            await wait_until(lambda: done.count(up) == n + 2)  # noqa: B023 - awaited here
        server.start()
        await wait_until(lambda: regained)
        await note.options(queue=down).defer()
        await wait_until(lambda: done.count(down) == 2)
    told = {event.broker for event in lost} | {event.broker for event in regained}
    assert told == {"far" if down == "far" else "default"}
