"""Who is told of tasks that fail, and how often, by a real web server."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App, Task
from taskq.broker import Record
from taskq.errors import ConfigError, Snooze, Vetoed
from taskq.job import Job
from taskq.notify.notifier import GATHER, SEND
from taskq.retry import Retry
from taskq.webhook import Kind, Slack, Target, Webhook
from tests.notify.receiver import HANG, SECRET, SOON, Receiver, receiving

pytestmark = pytest.mark.anyio

NEVER = Retry.never()
AT_ONCE = {"retry-after": "0"}
ALL: tuple[Kind, ...] = ("dead", "failed", "recovered")


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        "memory://" if getattr(request, "param", "") == "memory" else f"sqlite:///{tmp_path}/taskq.db?synchronous=off"
    )


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Receiver]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with receiving() as receiver:
        yield receiver


def hook(receiver: Receiver, **options: Any) -> Webhook:
    return Webhook(url=f"{receiver.url}/hook", secret=SECRET, **options)


def an_app(url: str, *targets: Target, window: float = 0.2, **settings: Any) -> App:
    return App(url, notify=targets, notify_window=window, **settings)


def breaking(app: App, retry: Retry = NEVER) -> Task[[bool], None]:
    """A task that fails when it is told to."""

    @app.task(name="shop.send", retry=retry, idempotent=True, keep=60)
    async def send(broken: bool) -> None:
        if broken:
            raise ValueError("no such address")

    return send


def redact(text: str) -> str:
    return text.replace("address", "***")


async def test_a_worker_that_leaves_out_the_queue_of_messages_says_so(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    told = "queue taskq.notify: nobody is told of failures by who fetches other queues alone"
    app = an_app("memory://", hook(receiver), queues=("mail",))
    assert [finding for finding in app.check() if finding.subject == "queue taskq.notify"]
    async with app, app.working():
        assert caplog.text.count(told) == 1
    app = an_app("memory://", hook(receiver))
    assert not [finding for finding in app.check() if finding.subject == "queue taskq.notify"]
    async with app, app.working(), app.working(queues=["mail", "taskq.notify"]):
        assert caplog.text.count(told) == 1


async def test_a_dead_letter_is_told_signed_with_its_redacted_error(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver), redact=redact)
    send = breaking(app)
    async with app, app.working():
        job = await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 1)
    (told,) = receiver.told("dead")
    assert told == {"task": "shop.send", "dead": 1, "job": job.id, "error": "ValueError: no such ***"}


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_a_flood_of_failures_is_a_message_a_window_with_the_right_count(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver), Slack(url=f"{receiver.url}/slack"), window=0.5)
    send = breaking(app)
    began = time.monotonic()
    async with app, app.working(), app.working():
        await app.defer_many(send.call(True) for _ in range(1000))
        await receiver.until(lambda: receiver.dead() >= 1000)
        assert receiver.dead() == 1000
        # Two for a window when something is noticed at its very end.
        windows = 2 * ((time.monotonic() - began) / 0.5 + 2)
        assert len(receiver.told("dead")) <= windows
        assert sum(request.path == "/slack" for request in receiver.requests) <= windows


async def test_workers_on_one_queue_send_one_message(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path}/taskq.db"
    app, other = (an_app(url, hook(receiver), window=0.5, slots=5) for _ in range(2))
    send, _ = breaking(app), breaking(other)
    async with app, other, app.working(), other.working():
        began = time.monotonic()
        await asyncio.gather(*(send.defer(True) for _ in range(40)))
        await receiver.until(lambda: receiver.dead() >= 40)
        assert receiver.dead() == 40
        assert len(receiver.requests) <= 2 * ((time.monotonic() - began) / 0.5 + 2)


async def test_runs_that_fail_and_jobs_that_die_are_counted_apart(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver, on=ALL))
    send = breaking(app, retry=Retry.fixed(3, 0.0))

    @app.task(idempotent=True, retry=NEVER)
    async def snoozes() -> None:
        raise Snooze(3600)

    async with app, app.working():
        await snoozes.defer()
        await send.defer(True)
        await receiver.until(lambda: receiver.told("dead"))
    tolds = [*receiver.told("failed"), *receiver.told("dead")]
    assert sum(told.get("failed", 0) for told in tolds) == 2
    assert sum(told.get("dead", 0) for told in tolds) == 1
    assert {told["task"] for told in tolds} == {"shop.send"}


async def test_a_task_that_was_told_of_and_succeeds_again_is_told_once(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver), Slack(url=f"{receiver.url}/slack", on=("failed", "recovered")))
    send = breaking(app)
    async with app, app.working():
        await send.defer(False)
        await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 1)
        with anyio.fail_after(SOON):
            while not receiver.told("recovered"):
                await send.defer(False)
                await anyio.sleep(0.05)
        for _ in range(20):
            await (await send.defer(False)).outcome()
        await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 3)
    kinds = [request.content["type"] for request in receiver.requests]
    assert kinds == ["task.dead", "task.recovered", "task.dead"]


async def test_a_webhook_that_hangs_or_fails_is_tried_again_and_reported_once(
    url: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    app = an_app(url, hook(receiver, timeout=1.0))
    send = breaking(app)
    receiver.answers = [(HANG, {}), (500, AT_ONCE), (503, AT_ONCE), (302, {"location": "/", **AT_ONCE})]
    async with app, app.working():
        job = await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 5)
        assert await job.status() == "failed"
    assert len({request.id for request in receiver.requests}) == 1
    reports = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in reports] == [
        "webhook: 127.0.0.1 has not answered within 1 s; it is tried again"
    ]


async def test_one_target_that_is_down_keeps_nothing_from_another(url: str, receiver: Receiver) -> None:
    down = Webhook(url="http://127.0.0.1:1/hook", secret=SECRET, name="down")
    app = an_app(url, down, Slack(url=f"{receiver.url}/slack"))
    send = breaking(app)
    async with app, app.working():
        job = await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 1)
    assert receiver.requests[0].content["text"] == (
        f"*shop.send*: 1 dead\nValueError: no such address\nlast job: {job.id}"
    )


async def test_a_message_that_cannot_be_sent_is_a_dead_letter_and_told_to_nobody(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver))
    send = breaking(app)
    receiver.answers = [(410, {})]
    async with app, app.working():
        await send.defer(True)
        with anyio.fail_after(SOON):
            dead: Sequence[Record] = ()
            while not dead:
                await anyio.sleep(0.01)
                dead = await app.admin.list_jobs("taskq.notify", "dead", after=None, limit=10)
        assert [record.job.task for record in dead] == [SEND]
        # What were told of it would come within this window.
        await send.defer(True)
        await receiver.until(lambda: len(receiver.requests) >= 2)
        assert [told["task"] for told in receiver.told("dead")] == ["shop.send", "shop.send"]


async def test_a_notification_that_is_refused_changes_nothing_for_its_job(
    url: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async def veto(job: Job) -> Job:
        if job.task == GATHER:
            raise Vetoed("by the test")
        return job

    app = an_app(url, hook(receiver), defer_middleware=[veto])
    send = breaking(app)
    async with app:
        job = await send.defer(True)
        await app.run_worker(until="idle")
        assert await job.status() == "failed"
    assert "nobody is told of a failure: Vetoed: by the test" in caplog.messages


async def test_what_was_noticed_last_is_handed_over_at_the_end(tmp_path: Path, receiver: Receiver) -> None:
    app = an_app(f"sqlite:///{tmp_path}/taskq.db", hook(receiver))
    send = breaking(app)
    async with app:
        for _ in range(3):
            await send.defer(True)
        await app.run_worker(until="idle")
    async with app, app.working():
        await receiver.until(lambda: receiver.dead() >= 3)


async def test_messages_of_a_target_that_is_gone_from_the_settings_end(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path}/taskq.db"
    before, after = an_app(url, hook(receiver, name="old")), an_app(url, hook(receiver, name="new"))
    async with before, after:
        await before.registry.tasks[SEND].defer("old", {"type": "", "timestamp": "", "data": {"task": "shop.send"}})
        await after.run_worker(until="idle")
        assert not any(queue.dead or queue.ready for queue in await after.admin.stats())
    assert not receiver.requests


async def test_an_app_that_tells_nobody_has_no_tasks_for_it(url: str) -> None:
    assert not App(url).registry.tasks


async def test_two_targets_of_one_name_are_refused(receiver: Receiver) -> None:
    with pytest.raises(ConfigError, match="one name"):
        an_app("memory://", hook(receiver), hook(receiver))


async def test_messages_come_after_all_other_jobs(url: str, receiver: Receiver) -> None:
    app = an_app(url, hook(receiver))
    async with app:
        assert app.worker_options().queues == ["default", "taskq.notify"]
    assert set(app.registry.tasks) == {GATHER, SEND}
