"""Bad input from the wire: nothing is lost, nothing runs that should not, and the worker goes on."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from taskq import App
from taskq.handle import JobHandle
from taskq.job import Job, JobRef
from taskq.testing.run import run_until_idle

pytestmark = pytest.mark.anyio

HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b'{"args":{}}',
    b'{"args":{"to":5}}',
    b'{"args":{"to":"a","copies":"many"}}',
    b'{"v":2,"args":{"to":"a"}}',
    b'{"args":{"to":"a","more":{"to":"b"}}}',
    b'{"args":{"to":' + b"[" * 100_000,
    b'{"args":{"to":"\\ud800"}}',
]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[App, list[str]]]:
    """An app, and to whom its one task has sent."""
    app, sent = App(url), list[str]()

    @app.task(name="mail.send")
    async def _(to: str, copies: int = 1, **more: str) -> None:
        sent.extend([to] * copies)
        assert not more

    async with app:
        yield app, sent


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
async def test_a_body_that_does_not_decode_is_set_aside_with_its_error(url: str, body: bytes) -> None:
    async with opened(url) as (app, sent):
        await app.backend.broker.enqueue([Job(id="bad", task="mail.send", body=body)])
        good = await app.find_task("mail.send").defer("a")
        await run_until_idle(app)

        record = await app.admin.lookup(JobRef("default", "bad"))
        assert record is not None
        assert record.state == "dead"
        assert record.job.body == body
        ended = await JobHandle(app, JobRef("default", "bad"), bytes, 60.0, added=True).outcome(timeout=0)
        assert (ended.end, ended.reason) == ("failed", "its arguments do not fit the task")
        assert ended.errors[-1].type == "taskq.errors.DecodeError"
        assert sent == ["a"]
        assert await good.status() == "gone"


async def test_a_job_of_an_unknown_task_waits_for_a_worker_that_knows_it(url: str) -> None:
    async with opened(url) as (app, sent):
        await app.backend.broker.enqueue([Job(id="newer", task="mail.archive", body=b'{"args":{}}')])
        await run_until_idle(app)

        record = await app.admin.lookup(JobRef("default", "newer"))
        assert record is not None
        assert (record.state, record.attempt, record.losses) == ("later", 1, 0)
        assert sent == []


@pytest.mark.parametrize("name", ["taskq-attempts", "taskq-timeout"])
@pytest.mark.parametrize("text", ["", "many", "0", "-1", "nan", "1e999", "9" * 5000])
async def test_headers_that_make_no_sense_say_nothing(url: str, name: str, text: str) -> None:
    async with opened(url) as (app, sent):
        job = Job(id="odd", task="mail.send", body=b'{"args":{"to":"a"}}', headers={name: text})
        await app.backend.broker.enqueue([job])
        await run_until_idle(app)

        assert sent == ["a"]
        assert await app.admin.stats() == []
