"""What a web process asks of the lifespan: the order of things, its errors, its readiness."""

import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App
from taskq.asgi import ASGIApp, Receive, Send, TaskqLifespan, TaskqMiddleware
from taskq.errors import ConfigError
from taskq.events import WorkerStarted, WorkerStopped
from taskq.threaded import WorkerThread, working_in_thread
from tests.servers import valkey

pytestmark = pytest.mark.anyio

SOON = 60.0
UNREACHABLE = "redis://127.0.0.1:1"


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(f"sqlite:///{tmp_path}/taskq.db")


def web_app(notes: list[str], *, fails: str = "") -> ASGIApp:
    """Notes its own startup and shutdown, and fails at one of them if told to."""

    async def web(_: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            notes.append(f"web {stage}")
            end = "failed" if stage == fails else "complete"
            await send({"type": f"lifespan.{stage}.{end}", "message": "by the test"})

    return web


async def without_lifespan(scope: MutableMapping[str, Any], _: Receive, __: Send) -> None:
    raise ValueError(f"only HTTP, no {scope['type']}")


async def lived(web: ASGIApp, lifespan: TaskqLifespan) -> list[MutableMapping[str, Any]]:
    """What a server hears from its start to its end."""
    said: list[MutableMapping[str, Any]] = []
    coming = iter(["startup", "shutdown"])

    async def receive() -> MutableMapping[str, Any]:
        return {"type": f"lifespan.{next(coming)}"}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    with anyio.fail_after(SOON):
        await TaskqMiddleware(web, lifespan)({"type": "lifespan"}, receive, send)
    return said


async def told(lifespan: TaskqLifespan, trouble: str | None) -> None:
    """Return when it tells of this trouble."""
    with anyio.fail_after(SOON):
        while await lifespan.trouble() != trouble:  # noqa: ASYNC110 - a server can only be asked after
            await anyio.sleep(0.01)


def kinds(said: list[MutableMapping[str, Any]]) -> list[str]:
    return [message["type"].removeprefix("lifespan.") for message in said]


@pytest.mark.parametrize("thread", [False, True])
async def test_the_worker_works_between_the_web_apps_own_startup_and_shutdown(app: App, thread: bool) -> None:
    notes: list[str] = []
    app.events.subscribe(WorkerStarted, lambda _: notes.append("worker started"))
    app.events.subscribe(WorkerStopped, lambda _: notes.append("worker stopped"))
    said = await lived(web_app(notes), TaskqLifespan(app, thread=thread))
    assert kinds(said) == ["startup.complete", "shutdown.complete"]
    assert notes == ["web startup", "worker started", "worker stopped", "web shutdown"]


async def test_a_web_app_without_a_lifespan_is_given_one(app: App) -> None:
    said = await lived(without_lifespan, TaskqLifespan(app))
    assert kinds(said) == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("stage", ["startup", "shutdown"])
async def test_what_fails_in_the_web_app_is_told_to_the_server(app: App, stage: str) -> None:
    said = await lived(web_app([], fails=stage), TaskqLifespan(app))
    assert kinds(said)[-1] == f"{stage}.failed"
    assert f"the web app's {stage} failed: by the test" in said[-1]["message"]


@pytest.mark.parametrize("options", [{"worker": False}, {}, {"thread": True}])
async def test_a_broker_out_of_reach_fails_the_startup(options: dict[str, bool]) -> None:
    said = await lived(without_lifespan, TaskqLifespan(App(UNREACHABLE), **options))
    assert kinds(said) == ["startup.failed"]
    assert "BrokerUnavailable" in said[0]["message"]


async def test_without_a_worker_jobs_wait_for_others(app: App) -> None:
    @app.task
    async def note() -> None: ...

    lifespan = TaskqLifespan(app, worker=False)
    async with lifespan():
        job = await note.defer()
        assert await lifespan.trouble() is None
        assert await job.status() == "ready"


@pytest.mark.parametrize("thread", [False, True])
async def test_a_server_that_is_cancelled_hands_back_what_runs(app: App, thread: bool) -> None:
    started = threading.Event()

    @app.task
    async def long() -> None:
        started.set()
        await anyio.sleep(2 * SOON)

    async with app:
        job = await long.defer()
    with anyio.fail_after(SOON), anyio.CancelScope() as scope:
        async with TaskqLifespan(app, thread=thread)():
            await anyio.to_thread.run_sync(started.wait)
            scope.cancel()
            await anyio.sleep_forever()
    async with app:
        assert await job.status() == "ready"


async def test_what_is_raised_beside_a_thread_comes_out_as_it_was(app: App) -> None:
    with pytest.raises(ZeroDivisionError):
        async with TaskqLifespan(app, thread=True)():
            raise ZeroDivisionError


@pytest.mark.parametrize("worker", [True, False])
async def test_readiness_shows_whether_the_broker_answers(tmp_path: Path, worker: bool) -> None:
    with valkey.single(tmp_path) as server:
        lifespan = TaskqLifespan(App(server.url), worker=worker)
        assert await lifespan.trouble() == "it does not serve yet, or no more"
        async with lifespan():
            await told(lifespan, None)
            server.kill()
            await told(lifespan, "the broker does not answer")
            server.start()
            await told(lifespan, None)


async def test_a_path_of_the_middleware_tells_readiness_and_all_others_are_the_web_apps(app: App) -> None:
    said: list[MutableMapping[str, Any]] = []

    async def web(_: MutableMapping[str, Any], __: Receive, send: Send) -> None:
        await send({"body": b"the web app\n"})

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    middleware = TaskqMiddleware(web, TaskqLifespan(app), readyz="/readyz")
    await middleware({"type": "http", "path": "/readyz"}, receive, send)
    await middleware({"type": "http", "path": "/other"}, receive, send)
    await middleware({"type": "websocket", "path": "/readyz"}, receive, send)
    assert said[0]["status"] == 503
    bodies = [message["body"] for message in said[1:]]
    assert bodies == [b"it does not serve yet, or no more\n", b"the web app\n", b"the web app\n"]


async def test_a_thread_on_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="sqlite"):
        async with TaskqLifespan(App("memory://"), thread=True)():
            raise AssertionError


@pytest.mark.parametrize("options", [{"thread": True}, {"slots": 3}])
def test_options_of_a_worker_without_one_are_refused(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="without a worker"):
        TaskqLifespan(app, worker=False, **options)


def test_a_worker_thread_works_until_it_is_stopped(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    with working_in_thread(app, slots=2) as worker:
        assert double.defer_sync(21).result_sync(SOON) == 42
        assert worker.options.slots == 2
    thread = WorkerThread(app)
    assert double.defer_sync(4).result_sync(SOON) == 8
    assert thread.trouble() is None
    thread.stop()
    thread.stop()
    assert thread.trouble() == "it is draining"
