"""Pools: one process keeps some jobs apart from others."""

import logging
import random
import threading
from collections import Counter

import anyio
import pytest

from taskq import App, current
from taskq.errors import ConfigError
from taskq.events import WorkerStarted
from taskq.testing import VirtualClock
from taskq.worker import lineup
from tests.worker.moves import heard, lose, wait_until

pytestmark = pytest.mark.anyio

FAST_AND_SLOW = {"fast": {"queues": ["fast"], "slots": 2}, "slow": {"queues": ["slow"], "slots": 3}}


async def test_a_pool_full_of_long_jobs_does_not_delay_another(url: str) -> None:
    app = App(url, pools=FAST_AND_SLOW)
    gate = anyio.Event()
    most, running, fast = 0, 0, 0

    @app.task(queue="slow")
    async def long() -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    @app.task(queue="fast")
    async def short() -> None:
        nonlocal fast
        fast += 1

    async with app:
        await app.defer_many(long.call() for _ in range(6))
        async with app.working() as worker:
            await wait_until(lambda: running == 3)
            await app.defer_many(short.call() for _ in range(50))
            await wait_until(lambda: fast == 50)
            # Those beyond the slots wait where another worker can have them.
            sight = worker.look()
            assert (sight.slots, sight.running, most) == (5, 3, 3)
            (slow,) = await app.admin.stats(["slow"])
            assert (slow.ready, slow.leased) == (3, 3)
            gate.set()
            await wait_until(lambda: not worker.look().held and not running)
    assert most == 3


async def test_threads_of_one_pool_are_not_taken_up_by_another() -> None:
    pools = {name: {**pool, "threads": 1} for name, pool in FAST_AND_SLOW.items()}
    app = App("memory://", pools=pools)
    gate, ran, waiting = threading.Event(), threading.Event(), threading.Event()

    @app.task(queue="slow")
    def block() -> None:
        waiting.set()
        gate.wait()

    @app.task(queue="fast")
    def run() -> None:
        ran.set()

    async with app, app.working():
        await app.defer_many(block.call() for _ in range(3))
        await wait_until(waiting.is_set)
        await run.defer()
        await wait_until(ran.is_set)
        gate.set()


async def test_a_pool_says_where_its_sync_handlers_run() -> None:
    app = App("memory://", pools={"cpu": {"queues": ["cpu"], "executor": "thread"}})
    seen: list[str] = []

    @app.task(queue="cpu", executor="process")
    def where() -> None:
        seen.append(threading.current_thread().name)  # In another process nobody would see it.

    async with app:
        await where.defer()
        await app.run_worker(until="idle")
    assert seen
    assert seen[0] != threading.main_thread().name


async def test_in_strict_order_a_later_queue_waits_until_the_earlier_one_is_empty(url: str) -> None:
    app = App(url, pools={"all": {"queues": ["first", "second"], "slots": 1}})
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        for queue in ["second", "first"]:
            await app.defer_many(note.options(queue=queue).call() for _ in range(5))
        await app.run_worker(until="idle")
    assert ran == ["first"] * 5 + ["second"] * 5


async def test_in_weighted_order_none_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", random.Random(7).random)
    app = App("memory://", pools={"all": {"queues": ["a", "b"], "weights": {"a": 3}, "slots": 1}})
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        for queue in ["a", "b"]:
            await app.defer_many(note.options(queue=queue).call() for _ in range(400))
        await app.run_worker(max_jobs=400)
    share = Counter(ran)["a"] / 400
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 400) ** 0.5 + 0.02  # A refill takes more than one from a queue.


async def test_the_queue_whose_next_job_is_nearest_to_its_target_goes_first(clock: VirtualClock) -> None:
    targets = {"mail": 5.0, "report": 60.0}
    app = App("memory://", pools={"all": {"queues": ["rest", "report", "mail"], "targets": targets, "slots": 1}})
    ran: list[tuple[str, float]] = []

    @app.task
    async def note(deferred: float) -> None:
        ran.append((current().queue, clock.time() - deferred))
        await anyio.sleep(1)

    async def defer(queue: str, jobs: int) -> None:
        await app.defer_many(note.options(queue=queue).call(clock.time()) for _ in range(jobs))

    async with app, app.working():
        await defer("rest", 5)
        await defer("report", 30)
        for _ in range(20):
            # Half of what the slot can do, and each takes precedence over reports that are not late.
            await defer("mail", 1)
            await clock.advance(2)
        await clock.advance(60)
    waits = {name: [wait for queue, wait in ran if queue == name] for name in ("mail", "report", "rest")}
    assert {name: len(of) for name, of in waits.items()} == {"mail": 20, "report": 30, "rest": 5}
    assert max(waits["mail"]) <= 5
    assert max(waits["report"]) <= 60
    # What has no target comes when nothing is left of what has one.
    assert [queue for queue, _ in ran if queue != "mail"] == ["report"] * 30 + ["rest"] * 5


async def test_a_queue_with_a_nearer_target_goes_before_one_that_holds_older_jobs(url: str) -> None:
    app = App(url, pools={"all": {"queues": ["slow", "fast"], "targets": {"fast": 1, "slow": 3600}, "slots": 1}})
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        for queue in ["slow", "fast"]:
            await app.defer_many(note.options(queue=queue).call() for _ in range(5))
        await app.run_worker(until="idle")
    # What a queue holds is known once it was looked into.
    assert ran == ["fast", "slow"] + ["fast"] * 4 + ["slow"] * 4


async def test_a_queue_that_appears_later_is_taken_in_and_one_that_is_left_out_is_not(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineup, "POLL", 0.02)
    pools = {"tenants": {"queues": ["tenant-*", "!tenant-x"]}, "rest": {"queues": ["*", "!tenant-*"]}}
    app = App(url, pools=pools)
    started, ran = heard(app, WorkerStarted), list[str]()

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        await note.options(queue="tenant-a").defer()
        await note.options(queue="tenant-x").defer()
        async with app.working():
            await wait_until(lambda: ran == ["tenant-a"])
            assert [event.queues for event in started] == [("tenant-a", "default")]
            await note.options(queue="tenant-b").defer()
            await note.options(queue="odd").defer()
            await wait_until(lambda: len(ran) == 3)
        assert sorted(ran) == ["odd", "tenant-a", "tenant-b"]
        (left,) = await app.admin.stats(["tenant-x"])
        assert left.ready == 1


async def test_a_later_queue_that_two_pools_take_in_is_the_first_ones_in_every_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lineup, "POLL", 0.02)
    app = App("memory://", pools={"tenants": {"queues": ["tenant-*"]}, "rest": {"queues": ["*"]}})
    ran = list[str]()

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        async with app.working(pools=["rest"]):
            for queue in ("tenant-a", "odd", "even"):
                await note.options(queue=queue).defer()
            await wait_until(lambda: sorted(ran) == ["even", "odd"])
        (left,) = await app.admin.stats(["tenant-a"])
        assert left.ready == 1
        async with app.working() as worker:
            await wait_until(lambda: len(ran) == 3)
            tenants, rest = ([*pool.lineup.queues] for pool in worker.pools)
        assert (tenants, "tenant-a" in rest) == (["tenant-a"], False)


async def test_a_drain_ends_all_pools_and_gives_back_what_does_not_end(url: str) -> None:
    app = App(url, pools=FAST_AND_SLOW)
    running = 0

    @app.task(retry=1)
    async def hang() -> None:
        nonlocal running
        running += 1
        await anyio.sleep_forever()

    async with app:
        for queue in FAST_AND_SLOW:
            await app.defer_many(hang.options(queue=queue).call() for _ in range(4))
        async with app.working(grace=0.0):
            await wait_until(lambda: running == 5)
        stats = await app.admin.stats()
        assert {queue.queue: (queue.ready, queue.leased, queue.dead) for queue in stats} == {
            "fast": (4, 0, 0),
            "slow": (4, 0, 0),
        }


@pytest.mark.parametrize("until", ["idle", "empty"])
async def test_a_worker_that_ends_by_itself_waits_for_all_pools(url: str, until: str) -> None:
    app = App(url, pools=FAST_AND_SLOW)
    ran: list[str] = []

    @app.task
    async def hop(hops: int) -> None:
        ran.append(current().queue)
        if hops:
            await hop.options(queue="slow" if current().queue == "fast" else "fast").defer(hops - 1)

    async with app:
        await hop.options(queue="fast").defer(5)
        await app.run_worker(until=until)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - one of both
    assert ran == ["fast", "slow"] * 3


async def test_no_more_runs_than_asked_for_begin_in_all_pools_together(url: str) -> None:
    app = App(url, pools=FAST_AND_SLOW)
    ran: list[str] = []

    @app.task(idempotent=True)
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        for queue in FAST_AND_SLOW:
            await app.defer_many(note.options(queue=queue).call() for _ in range(20))
        await app.run_worker(max_jobs=7)
        assert len(ran) == 7
        assert sum(queue.ready for queue in await app.admin.stats()) == 33


async def test_a_suspect_runs_alone_in_its_process_whichever_pool_is_its(url: str) -> None:
    app = App(url, pools=FAST_AND_SLOW)
    beside: list[int] = []
    gate, healthy = anyio.Event(), 0

    @app.task(idempotent=True)
    async def look() -> None:
        nonlocal healthy
        if current().losses:
            beside.append(sum(queue.leased for queue in await app.admin.stats()))
        else:
            healthy += 1
            await gate.wait()

    async with app:
        for queue in FAST_AND_SLOW:
            await look.options(queue=queue).defer()
            await lose(app, 2, queue)
        await look.options(queue="slow").defer()
        async with app.working():
            await wait_until(lambda: healthy or beside)
            gate.set()
            await wait_until(lambda: len(beside) == 2 and healthy == 1)
    assert beside == [1, 1]


async def test_only_the_pools_asked_for_run() -> None:
    app = App("memory://", pools=FAST_AND_SLOW)
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app:
        for queue in ["fast", "slow", "other"]:
            await note.options(queue=queue).defer()
        await app.run_worker(pools=["fast"], until="idle")
        assert ran == ["fast"]
        await app.run_worker(queues=["other"], until="idle")
        assert ran == ["fast", "other"]
        with pytest.raises(ConfigError, match=r"no pool is named 'fats' \(configured: fast, slow\)"):
            await app.run_worker(pools=["fats"])
        with pytest.raises(ConfigError, match="give pools or these"):
            await app.run_worker(pools=["fast"], slots=3)
        with pytest.raises(ConfigError, match="slots=0"):
            await app.run_worker(slots=0)


async def test_settings_read_again_change_the_pools_but_not_which_there_are() -> None:
    app = App("memory://", pools=FAST_AND_SLOW)
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().queue)

    async with app, app.working() as worker:
        other = App("memory://", pools={**FAST_AND_SLOW, "fast": {"queues": ["new"], "slots": 9}})
        worker.adopt(other.worker_options())
        assert worker.look().slots == 12
        await note.options(queue="new").defer()
        await wait_until(lambda: ran == ["new"])
        with pytest.raises(ConfigError, match="takes a new worker"):
            worker.adopt(App("memory://", pools={"fast": {"queues": ["new"]}}).worker_options())


async def test_a_queue_of_a_task_that_no_pool_takes_is_told_when_a_worker_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("memory://", pools={"mail": {"queues": ["mail"]}})

    @app.task(queue="web", idempotent=True)
    async def page() -> None: ...

    async with app:
        with caplog.at_level(logging.WARNING, "taskq"):
            await app.run_worker(until="idle")
    assert "queue web: no pool takes it, so nobody works on it here" in caplog.text
    assert [finding.subject for finding in app.check()] == ["queue web"]


async def test_pools_that_both_take_a_queue_of_a_task_keep_the_app_from_opening() -> None:
    app = App("memory://", pools={"a": {"queues": ["mail-*"]}, "b": {"queues": ["*-slow"]}})

    @app.task(queue="mail-slow")
    async def send() -> None: ...

    with pytest.raises(ConfigError, match="pools 'a' and 'b' both take queue 'mail-slow'"):
        async with app:
            pass
