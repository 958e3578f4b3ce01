"""What looks at the effects of a task: rows, files, requests. Anything else with a ``snapshot()`` will do, too."""

import asyncio
import inspect
import sqlite3
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self


class Observer(Protocol):
    """Sees effects. It may have a ``reset()`` that undoes them, and a ``crash()`` for what a process's death does."""

    def snapshot(self) -> Any:
        """What there is now: a list or mapping of effects, or anything that can be compared; or an awaitable of it."""
        ...


class Rows:
    """The rows that queries find, over a DB-API connection or one with an asynchronous ``fetch`` (asyncpg).

    A ``sqlite3`` database is put back as it was before each run; for others give ``check_idempotent`` a ``setup``.
    """

    def __init__(self, connection: Any, *queries: str) -> None:
        self._connection = connection
        self._queries = queries
        self._before: sqlite3.Connection | None = None
        if isinstance(connection, sqlite3.Connection):
            self._before = sqlite3.connect(":memory:")
            connection.commit()
            connection.backup(self._before)

    async def snapshot(self) -> list[object]:
        """All rows, in no particular order."""
        rows: list[Any] = []
        for query in self._queries:
            if hasattr(self._connection, "fetch"):
                rows += await self._connection.fetch(query)
            else:
                cursor = self._connection.cursor()
                found = cursor.execute(query)
                # asynchronous DB-APIs answer awaitables
                cursor = await found if inspect.isawaitable(found) else cursor
                fetched = cursor.fetchall()
                rows += await fetched if inspect.isawaitable(fetched) else fetched
        return [tuple(row) for row in rows]

    def reset(self) -> None:
        """Put the database back as it was when this observer was made."""
        if self._before is not None:
            self._connection.rollback()
            self._before.backup(self._connection)

    def crash(self) -> None:
        """A database rolls back what a dead client has not committed."""
        if self._before is not None:
            self._connection.rollback()


class Files:
    """The lines of all files in a directory, which is put back as it was before each run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before = self._read()

    def snapshot(self) -> list[tuple[str, bytes]]:
        """Each line of each file with the file's name; an empty file is one empty line."""
        return [(name, line) for name, content in self._read().items() for line in content.splitlines() or [b""]]

    def reset(self) -> None:
        """Put the directory back as it was when this observer was made."""
        for name in self._read():
            if name not in self._before:
                (self._directory / name).unlink()
        for name, content in self._before.items():
            (self._directory / name).parent.mkdir(parents=True, exist_ok=True)
            (self._directory / name).write_bytes(content)

    def _read(self) -> Mapping[str, bytes]:
        files = sorted(path for path in self._directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self._directory)): path.read_bytes() for path in files}


class Requests:
    """A tiny HTTP server that remembers what it was asked: ``async with Requests() as provider: provider.url``.

    As a payment provider does it takes two requests of one ``Idempotency-Key`` for one. Reading (GET, HEAD, OPTIONS)
    is no effect.
    """

    def __init__(self, answer: bytes = b"{}") -> None:
        self._answer = answer
        self._requests: list[tuple[str, str, bytes]] = []
        self._keys: set[str] = set()
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()
            # Clients that died have left theirs open.
            for writer in self._serving.values():
                writer.close()
            if self._serving:
                await asyncio.wait(self._serving)
            await self._server.wait_closed()

    def snapshot(self) -> list[tuple[str, str, bytes]]:
        """Method, path and body of each request that had an effect."""
        return list(self._requests)

    def reset(self) -> None:
        """Forget all requests."""
        self._requests.clear()
        self._keys.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a server calls this in a task"  # noqa: S101
        self._serving[task] = writer
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.splitlines()
            method, path, _ = first.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            key = headers.get("idempotency-key", "")
            if method not in ("GET", "HEAD", "OPTIONS") and not (key and key in self._keys):
                self._keys.add(key)
                self._requests.append((method, path, body))
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(self._answer), self._answer))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client died.
            pass
        finally:
            writer.close()
            del self._serving[task]


async def answered(value: Any) -> Any:
    """What a function answered, or what it promised."""
    promised: Awaitable[Any] | Any = value
    return await promised if inspect.isawaitable(promised) else promised
