"""Chains and gathers: one after another, side by side, and who is told when it does not come to that."""

from collections.abc import Sequence

import pytest

from taskq import App, Concurrency, Death, RateLimit, Retry, current, gather
from taskq.call import Gather
from taskq.errors import ConfigError, Conflict, JobCancelled, JobFailed, ResultNotReady
from taskq.outcome import Returned, decide
from taskq.testing import run_until_idle
from taskq.worker.effects import Effects
from taskq.worker.run import Run
from tests.worker.moves import SOON, lose

pytestmark = pytest.mark.anyio


def calculator(url: str) -> App:
    app = App(url, lease=0.5)

    @app.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    @app.task(name="show")
    async def show(n: int, unit: str = "") -> str:
        return f"{n}{unit}"

    @app.task(name="total")
    async def total(numbers: Sequence[int]) -> int:
        return sum(numbers)

    @app.task(name="fail", retry=1)
    async def fail(n: int = 0) -> int:
        raise ValueError(f"number {n}")

    @app.task(name="quiet")
    async def quiet() -> None: ...

    return app


async def test_each_call_of_a_chain_gets_the_result_of_the_one_before(url: str) -> None:
    app = calculator(url)
    double, show = app.find_task("double"), app.find_task("show")
    async with app, app.working():
        chain = await app.defer(double.call(1).then(double).then(double).then(show))
        assert await chain.result(SOON) == "8"
        assert await chain.status() == "returned"


async def test_a_complete_call_in_a_chain_is_left_as_it_is(url: str) -> None:
    app = calculator(url)
    double, show, quiet = app.find_task("double"), app.find_task("show"), app.find_task("quiet")
    async with app, app.working():
        chain = await app.defer(double.call(1).then(quiet.call()).then(show.call(7, "cm")))
        assert await chain.result(SOON) == "7cm"


async def test_what_follows_is_enqueued_under_the_options_of_its_call(url: str) -> None:
    app = calculator(url)
    double, show = app.find_task("double"), app.find_task("show")
    async with app:
        await app.defer(double.options(id="head").call(1).then(show.options(delay=3600, priority=3)))
        await run_until_idle(app)
        record = await app.admin.find("head.1")
    assert record is not None
    assert (record.state, record.job.priority) == ("later", 3)


async def test_a_job_that_fails_ends_its_chain_and_its_failure_is_told(url: str) -> None:
    app = calculator(url)
    told: list[Death] = []
    double, fail, quiet = app.find_task("double"), app.find_task("fail"), app.find_task("quiet")

    @app.task
    async def clean_up(death: Death) -> None:
        told.append(death)

    async with app:
        chain = await app.defer(double.call(1).then(fail).then(quiet.call()).on_failure(clean_up))
        worked = await run_until_idle(app)
        with pytest.raises(JobFailed, match="number 2"):
            await chain.result(SOON)
        assert await chain.status() == "failed"
    assert [event.task for event in worked.finished] == ["double", "fail", clean_up.name]
    (death,) = told
    assert (death.task, death.end, death.error and death.error.message) == ("fail", "failed", "number 2")


async def test_a_revived_job_goes_on_with_its_chain(url: str) -> None:
    app = calculator(url)
    broken = True

    @app.task(retry=1)
    async def fragile(n: int) -> int:
        if broken:
            raise ValueError
        return n + 1

    async with app:
        chain = await app.defer(app.find_task("double").call(1).then(fragile).then(app.find_task("show")))
        await run_until_idle(app)
        broken = False
        assert await app.admin.revive([chain.jobs[1].ref]) == ["revived"]
        await run_until_idle(app)
        assert await chain.result(SOON) == "3"


async def test_a_chain_is_cancelled_wherever_it_is(url: str) -> None:
    app = calculator(url)
    double, show = app.find_task("double"), app.find_task("show")
    async with app:
        chain = await app.defer(double.call(1).then(double.options(delay=3600)).then(show))
        await run_until_idle(app)
        assert await chain.cancel()
        await run_until_idle(app)
        with pytest.raises(JobCancelled):
            await chain.result(SOON)
        assert not await chain.cancel()


async def test_the_results_of_a_gather_come_in_the_order_of_its_calls(url: str) -> None:
    app = calculator(url)
    double, show = app.find_task("double"), app.find_task("show")
    async with app, app.working():
        both = await app.defer(gather(double.call(1), show.call(2), double.call(3).then(show)))
        assert await both.result(SOON) == (2, "2", "6")


async def test_a_gather_goes_on_with_the_results_of_all(url: str) -> None:
    app = calculator(url)
    double, show, total = app.find_task("double"), app.find_task("show"), app.find_task("total")
    async with app, app.working():
        members = [double.call(n) for n in range(50)] + [double.call(100).then(double)]
        chain = await app.defer(gather(*members).then(total).then(show))
        assert await chain.result(SOON) == str(sum(2 * n for n in range(50)) + 400)


async def test_a_gather_of_nothing_goes_on_at_once(url: str) -> None:
    app = calculator(url)
    async with app, app.working():
        empty: Gather[tuple[int, ...]] = gather()
        assert await (await app.defer(empty)).result(SOON) == ()
        assert await (await app.defer(empty.then(app.find_task("total")))).result(SOON) == 0


async def test_a_gather_with_a_failed_call_goes_no_further(url: str) -> None:
    app = calculator(url)
    told: list[str] = []
    double, fail, total = app.find_task("double"), app.find_task("fail"), app.find_task("total")

    @app.task
    async def clean_up(death: Death) -> None:
        told.append(death.task)

    async with app:
        chain = await app.defer(gather(double.call(1), fail.call(), fail.call()).then(total).on_failure(clean_up))
        worked = await run_until_idle(app)
        with pytest.raises(JobFailed):
            await chain.result(SOON)
    assert told == ["fail"]
    assert "total" not in [event.task for event in worked.finished]


async def test_results_are_gathered_of_tasks_that_keep_none(url: str) -> None:
    app = calculator(url)
    seen: list[Sequence[None]] = []
    quiet = app.find_task("quiet")

    @app.task
    async def see(nothings: Sequence[None]) -> None:
        seen.append(nothings)

    async with app, app.working():
        assert await (await app.defer(gather(quiet.call(), quiet.call()))).result(SOON) == (None, None)
        await (await app.defer(gather(quiet.call(), quiet.call()).then(see))).result(SOON)
    assert seen == [[None, None]]


async def test_a_failing_chunk_of_a_map_is_retried_alone(url: str) -> None:
    app = App(url)
    runs: list[int] = []

    @app.task(retry=Retry.fixed(2, 0.0))
    async def process(items: list[int]) -> int:
        runs.append(items[0])
        if items[0] == 30 and current().attempt == 1:
            raise ConnectionError("not yet")
        return sum(items)

    @app.task
    async def total(sums: Sequence[int]) -> int:
        return sum(sums)

    items = list(range(100))
    async with app:
        parts = gather(*(process.call(items[start : start + 10]) for start in range(0, 100, 10)))
        whole = await app.defer(parts.then(total))
        await run_until_idle(app, until="empty")
        assert await whole.result(SOON) == sum(items)
    assert sorted(runs) == sorted([*range(0, 100, 10), 30])


@pytest.mark.parametrize("deaths", [1, 3])
async def test_a_chain_whose_workers_died_between_effect_and_settlement_goes_on_once(url: str, deaths: int) -> None:
    app = calculator(url)
    runs: list[str] = []

    @app.task(name="first")
    async def first() -> int:
        runs.append("first")
        return len(runs)

    @app.task(name="second")
    async def second(n: int) -> int:
        runs.append("second")
        return n

    async with app:
        chain = await app.defer(first.call().then(second))
        # What a worker does of an end before it dies: the decision is written down, its effect carried out.
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        run = Run(delivery)
        await Effects(app.backend).carry_out([(run, decide(Returned(b"41"), delivery, run.policy, chance=0.0))])
        await lose(app, deaths - 1)
        await run_until_idle(app)
        assert await chain.jobs[1].result(SOON) == 41
        assert not await app.admin.list_jobs("default", "dead", after=None, limit=1)
    assert runs == ["second"]


async def test_a_lost_delivery_of_a_chain_runs_again(url: str) -> None:
    app = calculator(url)
    async with app:
        chain = await app.defer(app.find_task("double").call(1).then(app.find_task("show")))
        await lose(app, 1)
        await run_until_idle(app)
        assert await chain.result(SOON) == "2"


async def test_a_chain_takes_part_in_its_callers_transaction(url: str) -> None:
    app = App(url)
    if not url.startswith(("sqlite", "postgres")):
        return

    @app.task(transaction=True)
    async def first(fails: bool) -> int:
        await app.defer(second.call(1).then(second))
        if fails:
            raise ValueError
        return 1

    @app.task
    async def second(n: int) -> int:
        return n

    async with app:
        await first.options(attempts=1).defer(True)
        assert [event.task for event in (await run_until_idle(app)).finished] == [first.name]
        chain = await app.defer(first.call(False).then(second))
        await run_until_idle(app)
        assert await chain.result(SOON) == 1


async def test_gathers_and_batches_are_refused_in_a_transaction_that_they_would_outlive() -> None:
    app = calculator("memory://")
    double = app.find_task("double")

    async with app:
        with app.transaction(object()):
            with pytest.raises(ConfigError, match="a gather takes part in no transaction"):
                await app.defer(gather(double.call(1), double.call(2)))
            with pytest.raises(ConfigError, match="batch b takes part in no transaction"):
                async with app.batch("b"):
                    pass
        async with app.batch("b") as batch:
            with app.transaction(object()), pytest.raises(ConfigError, match="after the commit, or defer a task"):
                await batch.add([double.call(1)])
        status = await batch.status()
        assert status is not None
        assert status.total == 0


async def test_time_is_over_for_the_whole_chain(url: str) -> None:
    app = calculator(url)
    async with app:
        chain = await app.defer(app.find_task("double").call(1).then(app.find_task("show")))
        with pytest.raises(ResultNotReady):
            await chain.result(0)
        assert await chain.status() == "ready"


async def test_a_gathered_call_whose_unique_key_is_held_fails_the_gather(url: str) -> None:
    app = calculator(url)
    double, total = app.find_task("double"), app.find_task("total")
    told: list[Death] = []

    @app.task
    async def clean_up(death: Death) -> None:
        told.append(death)

    async with app:
        await double.options(unique=True, delay=3600).defer(1)
        with pytest.raises(Conflict):
            await app.defer(
                gather(double.options(unique=True).call(1), double.call(2)).then(total).on_failure(clean_up)
            )
        await run_until_idle(app)
    assert ["unique key" in death.reason for death in told] == [True]


async def test_what_cannot_follow_is_refused_where_it_is_written() -> None:
    app = calculator("memory://")
    double, show, total, quiet = map(app.find_task, ["double", "show", "total", "quiet"])

    @app.task(name="two")
    async def two(a: int, b: int) -> int:
        return a + b

    @app.task(transaction=True)
    async def commit(n: int) -> int:
        return n

    with pytest.raises(ConfigError, match="one value"):
        double.call(1).then(app.find_task("two"))
    with pytest.raises(ConfigError, match="one value"):
        double.call(1).then(quiet)
    with pytest.raises(ConfigError, match="give a text"):
        double.call(1).then(show.options(unique=True))
    with pytest.raises(ConfigError, match="tx="):
        double.call(1).then(show.options(tx=object()))
    with pytest.raises(ConfigError, match="on_failure already"):
        double.call(1).on_failure(quiet.call()).on_failure(quiet.call())
    call = double.call(1)
    with pytest.raises(ConfigError, match="given twice"):
        gather(call, call)
    async with app:
        with pytest.raises(ConfigError, match="still to come"):
            await app.defer(double.receiving())
        with pytest.raises(ConfigError, match="batch in a batch"):
            await app.defer(gather(gather(double.call(1)).then(total)))
        with pytest.raises(ConfigError, match="transaction=True"):
            await app.defer(gather(commit.call(1)).then(total))


async def test_a_limited_task_may_follow_unless_its_place_in_line_hangs_on_the_value() -> None:
    app = App("memory://")

    @app.task(name="start")
    async def start() -> int:
        return 1

    @app.task(limits=[RateLimit(10, per=1, key=("n",)), Concurrency(2)])
    async def limited(n: int) -> int:
        return n

    @app.task(limits=[Concurrency(2, key=("n",))])
    async def by_value(n: int) -> int:
        return n

    with pytest.raises(ConfigError, match="still to come"):
        start.call().then(by_value)
    async with app, app.working():
        assert await (await app.defer(start.call().then(limited))).result(SOON) == 1
