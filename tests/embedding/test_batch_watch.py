"""What a browser sees of batches: their status, and a stream of it that ends with them and with who listens."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from taskq import App, watching
from taskq.asgi import Message, TaskqLifespan
from taskq.errors import BrokerUnavailable, ConfigError
from taskq.store import Entry
from taskq.testing import run_until_idle
from taskq.watching import BatchWatch

pytestmark = pytest.mark.anyio

SOON = 60.0


@pytest.fixture
def app() -> App:
    app = App("memory://")

    @app.task(name="work", retry=1)
    async def work(bad: bool = False) -> None:
        if bad:
            raise ValueError

    return app


class Client:
    """One request, and what it is answered."""

    def __init__(self, path: str, **scope: Any) -> None:
        self.scope: Message = {"type": "http", "method": "GET", "path": path, "headers": [], **scope}
        self.asked = False
        self.leaves = asyncio.Event()
        self.said: list[Message] = []
        self.heard = anyio.Event()

    async def receive(self) -> Message:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b""}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.said.append(message)
        self.heard.set()

    async def ask(self, web: BatchWatch) -> "Client":
        with anyio.fail_after(SOON):
            await web(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.said[0]["status"])

    @property
    def body(self) -> str:
        return b"".join(message["body"] for message in self.said[1:]).decode()

    def events(self) -> list[tuple[str, Any]]:
        """The names and data of what has been streamed."""
        found: list[tuple[str, Any]] = []
        for event in self.body.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":") and line)
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
        return found

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until what it has heard is enough."""
        with anyio.fail_after(SOON):
            while not met():
                self.heard = anyio.Event()
                await self.heard.wait()


@asynccontextmanager
async def streaming(client: Client, web: BatchWatch) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(client.ask, web)
        yield


async def test_the_status_of_a_batch_is_json_with_its_failures_when_they_are_asked_for(app: App) -> None:
    web, work = BatchWatch(app), app.find_task("work")
    async with app:
        async with app.batch("b", description="Letters") as batch:
            await batch.add([work.call(), work.call(bad=True)])
        await run_until_idle(app)
        plain = await Client("/b").ask(web)
        listed = await Client("/b", query_string=b"failures=1").ask(web)
    assert plain.status == 200
    status = json.loads(plain.body)
    assert (status["total"], status["pending"], status["failed"], status["description"]) == (2, 0, 1, "Letters")
    assert (status["succeeded"], status["ends"]["failed"], status["ends"]["expired"]) == (1, 1, 0)
    assert 0 < status["opened"] <= status["sealed_at"] <= status["over"]
    assert json.loads(listed.body) == status | {"failures": ["b.0.1"]}


async def test_a_stream_tells_each_change_and_ends_with_its_batch(app: App) -> None:
    web, work = BatchWatch(app, every=0.01), app.find_task("work")
    client = Client("/jobs/b/events", root_path="/jobs")
    async with app, app.batch("b") as batch, streaming(client, web):
        await client.until(lambda: len(client.events()) == 1)
        await batch.add([work.call(), work.call()])
        await client.until(lambda: client.events()[-1][1]["total"] == 2)
        await run_until_idle(app)
        await client.until(lambda: client.events()[-1][1]["pending"] == 0)
        async with app.batch("b"):
            pass
    assert client.said[0]["headers"][0] == (b"content-type", b"text/event-stream")
    names, told = zip(*client.events(), strict=True)
    assert set(names[:-1]) == {"status"}
    assert names[-1] == "end"
    assert told[-1]["over"] is not None
    assert client.said[-1].get("more_body", False) is False
    # A browser comes again when a stream ends, and is told that there is no more.
    again = Client("/b/events", headers=[(b"last-event-id", b"end")])
    async with app:
        async with app.batch("b"):
            pass
        assert (await again.ask(BatchWatch(app))).status == 204


async def test_who_leaves_a_stream_leaves_nothing_behind(app: App) -> None:
    web, client = BatchWatch(app, every=0.01), Client("/b/events")
    async with app, app.batch("b"):
        async with streaming(client, web):
            await client.until(lambda: len(client.said) > 1)
            client.leaves.set()
        assert len(client.events()) == 1


async def test_a_stream_ends_where_a_server_refuses_to_send_to_who_has_gone(app: App) -> None:
    client = Client("/b/events")

    async def send(message: Message) -> None:
        if client.said:
            raise OSError("the client has gone")
        client.said.append(message)

    async with app, app.batch("b"):
        with anyio.fail_after(SOON):
            await BatchWatch(app)(client.scope, client.receive, send)
    assert len(client.said) == 1


async def test_clients_of_one_batch_share_a_look(app: App) -> None:
    web = BatchWatch(app, every=SOON)
    async with app, app.batch("b"):
        get, asked = app.store.get, list[str]()

        async def counted(key: str) -> Entry:
            asked.append(key)
            return await get(key)

        app.store.get = counted  # type: ignore[method-assign]
        for _ in range(3):
            assert (await Client("/b").ask(web)).status == 200
        assert asked == ["batch:b", "batch:b:parts"]


async def test_a_silent_stream_says_that_it_lives(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "KEEP_ALIVE", 0.0)
    client = Client("/b/events")
    async with app, app.batch("b"), streaming(client, BatchWatch(app, every=0.01)):
        await client.until(lambda: client.body.endswith("\n\n:\n\n:\n\n"))
        client.leaves.set()
    assert [name for name, _ in client.events()] == ["status"]


async def test_a_stream_that_has_lasted_long_enough_ends_before_its_batch(app: App) -> None:
    async with app, app.batch("b"):
        client = await Client("/b/events").ask(BatchWatch(app, every=0.01, lasts=0.05))
    assert client.said[-1].get("more_body", False) is False
    assert "end" not in [name for name, _ in client.events()]


async def test_a_stream_outlives_a_broker_that_is_away(app: App) -> None:
    web, client = BatchWatch(app, every=0.01), Client("/b/events")
    async with app, app.batch("b") as batch:
        store, get = app.store, app.store.get
        async with streaming(client, web):
            await client.until(lambda: len(client.events()) == 1)

            away = anyio.Event()

            async def refused(key: str) -> Entry:
                away.set()
                raise BrokerUnavailable(key)

            store.get = refused  # type: ignore[method-assign]
            await away.wait()
            assert (await Client("/c").ask(web)).status == 503
            store.get = get  # type: ignore[method-assign]
            assert await batch.cancel()
    assert client.events()[-1][0] == "end"


async def test_what_cannot_be_shown_is_refused(app: App) -> None:
    async def nobody(_: Message, id: str) -> bool:
        return id != "secret"

    web = BatchWatch(app, allow=nobody)
    async with app, app.batch("b"), app.batch("secret"):
        answers = [
            (await Client(path, **scope).ask(web)).status
            for path, scope in [
                ("/unknown", {}),
                ("/unknown/events", {}),
                ("/", {}),
                ("/b/more", {}),
                ("/b", {"method": "DELETE"}),
                ("/secret", {}),
                ("/secret/events", {}),
                ("/b", {"method": "HEAD"}),
            ]
        ]
        with pytest.raises(RuntimeError, match="not by websocket"):
            await Client("/b", type="websocket").ask(web)
    assert answers == [404, 404, 404, 404, 405, 403, 403, 200]
    with pytest.raises(ConfigError, match="every=0"):
        BatchWatch(app, every=0)


def test_it_is_mounted_in_a_web_app(tmp_path: Path) -> None:
    jobs = App(f"sqlite:///{tmp_path}/taskq.db")
    web = FastAPI(lifespan=TaskqLifespan(jobs))
    web.mount("/batches", BatchWatch(jobs))

    @web.post("/letters")
    async def send() -> None:
        async with jobs.batch("letters"):
            pass

    with TestClient(web) as client:
        client.post("/letters")
        assert client.get("/batches/letters").json()["total"] == 0
        assert client.get("/batches/letters/events").text.startswith("event: end\nid: end\ndata: {")
        assert client.get("/batches/none").status_code == 404
