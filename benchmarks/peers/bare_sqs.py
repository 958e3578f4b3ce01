"""Calls of SQS made beforehand, unsigned, over bare connections: what the server itself can do, whoever asks."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import json

from benchmarks.peers.recorder import Call, Ledger, Order, send, serve

CALLERS = 20
"""Calls under way at once; more of them bring no more."""


class Caller:
    """One connection, one call at a time."""

    def __init__(self, order: Order) -> None:
        self._parts = urlsplit(order.url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.queue = self._parts.path.strip("/")

    async def call(self, action: str, **said: object) -> Any:
        """What the server answers."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        reader, writer = self._streams
        body = json.encode(said)
        head = f"POST / HTTP/1.1\r\nHost: sqs\r\nX-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/x-amz-json-1.0\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        text = await reader.readexactly(int(length.partition(b":")[2]))
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise OSError(text.decode())
        return json.decode(text)


async def opened(order: Order) -> tuple[list[Caller], str]:
    """Connections, and the address of the queue."""
    callers = [Caller(order) for _ in range(CALLERS)]
    made = await callers[0].call("CreateQueue", QueueName=callers[0].queue)
    return callers, made["QueueUrl"]


async def defer(order: Order) -> None:
    """One by one, side by side, or in tens."""
    callers, queue = await opened(order)
    free = asyncio.Queue[Caller]()
    for caller in callers:
        free.put_nowait(caller)

    async def call(action: str, **said: object) -> None:
        caller = await free.get()
        await caller.call(action, QueueUrl=queue, **said)
        free.put_nowait(caller)

    async def one(number: int, content: str) -> None:
        await call("SendMessage", MessageBody=f"{number} {content}")

    async def bulk(part: Sequence[Call]) -> None:
        tens = [part[first : first + 10] for first in range(0, len(part), 10)]
        entries = [[{"Id": str(n), "MessageBody": f"{n} {content}"} for n, content in ten] for ten in tens]
        await asyncio.gather(*(call("SendMessageBatch", Entries=ten) for ten in entries))

    await send(order, one, bulk)


async def work(order: Order) -> None:
    """Receive ten, delete ten, as often as there are callers."""
    callers, queue = await opened(order)
    handler = Ledger(order).handler()

    async def consume(caller: Caller) -> None:
        while True:
            found = await caller.call("ReceiveMessage", QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            messages = found.get("Messages", [])
            for message in messages:
                number, _, content = message["Body"].partition(" ")
                await handler(int(number), content)
            if messages:
                entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
                await caller.call("DeleteMessageBatch", QueueUrl=queue, Entries=entries)

    await asyncio.gather(*map(consume, callers))


if __name__ == "__main__":
    serve("uvloop", {"defer": defer, "work": work})
