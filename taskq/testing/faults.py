"""A front before an SQS server that does to its callers what the real one may do on a bad day.

It doubles messages, also after they were deleted; shuffles, delays and cuts leases short; fails parts of batches, with
and without having done them; throttles, answers 5xx before or after the call was carried out, and loses answers. What
it does is drawn from a seed, and counted.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

_KEPT = 200
"""Messages of a queue that may come once more."""

Said = dict[str, Any]


class Rates(Struct, frozen=True, kw_only=True):
    """How often each fault happens: of messages, of a batch's entries, or of calls."""

    double: float = 0.0
    """Of received messages: comes a second time, at once or later."""
    shuffle: float = 0.0
    """Of receives: their messages in another order."""
    late: float = 0.0
    """Of sent messages: a second later."""
    expire: float = 0.0
    """Of received messages: visible to others at once."""
    partly: float = 0.0
    """Of a batch's entries: said to have failed, and half of them done all the same."""
    throttle: float = 0.0
    """Of calls: refused."""
    fail: float = 0.0
    """Of calls: answered with a 5xx, half of them after they were carried out."""
    cut: float = 0.0
    """Of calls: carried out, and never answered."""


class Front:
    """The proxy: where it listens, what it counted."""

    def __init__(self, server: str, rates: Rates, seed: int) -> None:
        self.url = ""
        self.calls: Counter[str] = Counter()
        """By action."""
        self.done: Counter[str] = Counter()
        """Faults, by the name of their rate."""
        self.rates = rates
        self.refusing: dict[str, str] = {}
        """Actions of which every call is refused, for as long as they are in here, and the code it is answered with."""
        self._server = urlsplit(server)
        self._random = random.Random(seed)  # noqa: S311 a simulation
        self._seen: dict[str, deque[Said]] = {}
        self._deleted: set[str] = set()

    def _falls(self, name: str) -> bool:
        rate: float = getattr(self.rates, name)
        if rate and self._random.random() < rate:
            self.done[name] += 1
            return True
        return False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller's connection, with one to the server behind it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            behind = await asyncio.open_connection(self._server.hostname, self._server.port)
            try:
                while (request := await _read(reader)) is not None:
                    answer = await self._answer(*request, behind)
                    if answer is None:
                        return
                    writer.write(answer)
                    await writer.drain()
            finally:
                behind[1].close()
                writer.close()

    async def _answer(self, head: bytes, body: bytes, behind: "_Connection") -> bytes | None:
        action = _header(head, b"x-amz-target").rpartition(".")[2]
        self.calls[action] += 1
        if action in self.refusing or self._falls("throttle"):
            return _refusal(400, self.refusing.get(action, "RequestThrottled"))
        failing, cut = self._falls("fail"), self._falls("cut")
        if failing and self._random.random() < 0.5:
            return _refusal(503, "ServiceUnavailable")
        said: Said = msgspec.json.decode(body) if body else {}
        failed = self._prepare(action, said)
        answer = await _ask(behind, head, said)
        if answer is None or cut:
            return None
        if failing:
            return _refusal(500, "InternalError")
        status, first, text = answer
        if status == 200:
            found: Said = msgspec.json.decode(text)
            text = msgspec.json.encode(await self._changed(action, said, found, failed, head, behind))
        return _response(first, text)

    def _prepare(self, action: str, said: Said) -> list[Said]:
        """Change what is asked for; answers the entries that will be said to have failed."""
        if "Entries" not in said:
            return []
        entries: list[Said] = said["Entries"]
        failed = [entry for entry in entries if self._falls("partly")]
        undone = [entry for entry in failed if self._random.random() < 0.5]
        said["Entries"] = [entry for entry in entries if entry not in undone]
        for entry in said["Entries"] if action == "SendMessageBatch" else []:
            if "MessageGroupId" not in entry and self._falls("late"):
                entry["DelaySeconds"] = int(entry.get("DelaySeconds", 0)) + 1
        return failed

    async def _changed(
        self, action: str, said: Said, found: Said, failed: list[Said], head: bytes, behind: "_Connection"
    ) -> Said:
        """The server's answer as the caller gets it."""
        if action == "ReceiveMessage":
            await self._receive(said, found, head, behind)
        if action == "DeleteMessageBatch":
            self._forgive(said, found)
        if failed:
            names = {entry["Id"] for entry in failed}
            for kind in ("Successful", "Failed"):
                found[kind] = [one for one in found.get(kind, []) if one["Id"] not in names]
            found["Failed"] += [{"Id": name, "Code": "InternalError", "SenderFault": False} for name in names]
        return found

    async def _receive(self, said: Said, found: Said, head: bytes, behind: "_Connection") -> None:
        came = cast("list[Said]", found.get("Messages", []))
        for message in came:
            if self._falls("expire"):
                entry = {"Id": "0", "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                asked = {"QueueUrl": said["QueueUrl"], "Entries": [entry]}
                changing = head.replace(b"AmazonSQS.ReceiveMessage", b"AmazonSQS.ChangeMessageVisibilityBatch")
                await _ask(behind, changing, asked)
        seen = self._seen.setdefault(said["QueueUrl"], deque(maxlen=_KEPT))
        seen.extend(came)
        if seen and came:
            copies = [self._random.choice(seen) for _ in came if self._falls("double")]
            came = [*came, *copies][: int(said["MaxNumberOfMessages"])]
        if self._falls("shuffle"):
            self._random.shuffle(came)
        if came:
            found["Messages"] = came

    def _forgive(self, said: Said, found: Said) -> None:
        """As the real service does: what was deleted before counts as deleted."""
        handles = {entry["Id"]: entry["ReceiptHandle"] for entry in said["Entries"]}
        again = {one["Id"] for one in found.get("Failed", []) if handles[one["Id"]] in self._deleted}
        found["Failed"] = [one for one in found.get("Failed", []) if one["Id"] not in again]
        found["Successful"] = [*found.get("Successful", []), *({"Id": name} for name in again)]
        self._deleted.update(handles[one["Id"]] for one in found["Successful"])


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def sqs_front(server: str, rates: Rates | None = None, *, seed: int = 0) -> AsyncGenerator[Front]:
    """A front before the SQS server at this URL, on a loopback port of its own until the context is left."""
    front = Front(server, rates or Rates(), seed)
    connections: set[asyncio.Task[None]] = set()

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(front.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    front.url = "http://{}:{}".format(*listener.sockets[0].getsockname())
    try:
        yield front
    finally:
        listener.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """The head and body of a request or an answer; None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return head, await reader.readexactly(int(_header(head, b"content-length") or 0))


async def _ask(behind: _Connection, head: bytes, said: Said) -> tuple[int, bytes, bytes] | None:
    """What the server answers: status, head and body; None when it hangs up."""
    if said.get("Entries") == []:
        return 200, b"HTTP/1.1 200 OK\r\n\r\n", b'{"Successful":[],"Failed":[]}'
    body = msgspec.json.encode(said)
    behind[1].write(_with_length(head, len(body)) + body)
    answer = await _read(behind[0])
    if answer is None:
        return None
    return int(answer[0].split(b" ", 2)[1]), *answer


def _header(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode("latin-1")
    return ""


def _with_length(head: bytes, length: int) -> bytes:
    lines = head.rstrip().split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"content-length:", b"connection:"))]
    return b"\r\n".join([*kept, b"Content-Length: %d" % length, b"Connection: keep-alive", b"", b""])


def _response(head: bytes, body: bytes) -> bytes:
    return _with_length(head, len(body)) + body


def _refusal(status: int, code: str) -> bytes:
    body = msgspec.json.encode({"__type": f"com.amazonaws.sqs#{code}", "message": "by the front"})
    return _response(b"HTTP/1.1 %d No\r\nContent-Type: application/x-amz-json-1.0\r\n\r\n" % status, body)
