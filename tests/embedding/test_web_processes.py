"""A worker inside a web process, behind real web servers."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from taskq import App
from taskq.handle import JobHandle
from tests.embedding import shop
from tests.servers.process import Process, send, wait_until

pytestmark = pytest.mark.anyio

PATIENCE = 90.0
"""Seconds that anything may take before a test gives up."""


def get(server: Process, path: str) -> tuple[int, str]:
    """Status and text of a page; 0 when nobody answers."""
    try:
        with urlopen(f"{server.url}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode().strip()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@contextmanager
def serving(directory: Path, module: str, **environment: str) -> Generator[Process]:
    """The shop behind a framework, ready to serve; its grace is longer than any test."""
    settings = {
        "TASKQ_URL": f"sqlite:///{directory}/taskq.db",
        "TASKQ_GRACE": "600",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }

    def command(port: int) -> list[str]:
        python = ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable, "-m"]
        if module.endswith(":wsgi"):
            server = ["gunicorn", "--threads=4", "--graceful-timeout=600", f"--bind=127.0.0.1:{port}"]
        else:
            server = ["uvicorn", f"--port={port}"]
        return [*python, *server, f"tests.embedding.{module}"]

    server = Process(
        directory, command, url="http://127.0.0.1:{port}", answers=lambda server: get(server, "/readyz") == (200, "ok")
    )
    try:
        server.start(patience=PATIENCE)
        yield server
    finally:
        server.kill()
        print(server.log())  # noqa: T201 pytest shows it with a failure


def client(directory: Path) -> App:
    """The shop's tasks, to be deferred by this process."""
    app = App(f"sqlite:///{directory}/taskq.db")
    for task in shop.jobs.registry.tasks.values():
        app.task(name=task.name, keep=60)(task.definition.function)
    return app


async def begun(app: App, directory: Path, name: str) -> JobHandle[object]:
    """A job that runs in the web process, until its gate opens."""
    started, gate = directory / "started", directory / "gate"
    job: JobHandle[object] = await app.find_task(name).defer(str(started), str(gate))
    assert wait_until(started.exists, PATIENCE)
    return job


async def end_of(server: Process) -> None:
    assert wait_until(lambda: not server.running, PATIENCE), server.log()


@pytest.mark.parametrize("module", ["on_fastapi:web", "on_starlette:web", "on_litestar:web", "on_django:web"])
async def test_a_job_runs_where_it_was_deferred_and_is_finished_before_the_server_ends(
    tmp_path: Path, module: str
) -> None:
    app = client(tmp_path)
    with serving(tmp_path, module) as server:
        status, answer = get(server, "/")
        process, thread, *ran_in = answer.split()
        assert (status, ran_in) == (200, [process, thread])
        async with app:
            job = await begun(app, tmp_path, "wait_for")
            send(server.pid, SIGTERM)
            assert wait_until(lambda: get(server, "/readyz")[0] == 0, PATIENCE)
            assert server.running
            (tmp_path / "gate").touch()
            await end_of(server)
            assert await job.status() == "returned"


async def test_a_worker_in_a_thread_works_while_the_web_loop_is_blocked_and_hands_back_what_outlives_its_grace(
    tmp_path: Path,
) -> None:
    app = client(tmp_path)
    with serving(tmp_path, "on_starlette:web", SHOP_THREAD="1", TASKQ_GRACE="0.1") as server:
        process, thread, ran_in, by = get(server, "/")[1].split()
        assert (process, thread != by) == (ran_in, True)
        assert get(server, f"/block?until={tmp_path}/done") == (200, "a worker has run it")
        async with app:
            job = await begun(app, tmp_path, "wait_for")
            send(server.pid, SIGTERM)
            await end_of(server)
            record = await app.lookup(job.ref)
            assert record is not None
            assert (record.state, record.attempt, record.losses) == ("ready", 1, 0)


async def test_behind_wsgi_sync_views_defer_and_the_drain_is_waited_for(tmp_path: Path) -> None:
    app = client(tmp_path)
    with serving(tmp_path, "on_django:wsgi") as server:
        process, thread, ran_in, by = get(server, "/sync")[1].split()
        assert (process, thread != by) == (ran_in, True)
        async with app:
            job = await begun(app, tmp_path, "wait_in_thread")
            send(server.pid, SIGTERM)
            assert wait_until(lambda: get(server, "/readyz")[0] == 0, PATIENCE)
            (tmp_path / "gate").touch()
            await end_of(server)
            assert await job.status() == "returned"
