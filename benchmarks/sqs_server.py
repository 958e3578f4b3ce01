"""An SQS server that does as little for a call as it can: ``python -m benchmarks.sqs_server PORT``.

An emulator made for tests spends more on a call than the clients that are measured, and would be what is measured. This
one knows the calls that the sides make, leases and delays, and nothing else; it forgets everything when it ends. Asked
for none of them it tells how many it has answered.
"""

import asyncio
import heapq
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from itertools import count
from typing import Any

import uvloop
from msgspec import json

Said = dict[str, Any]


class Queue:
    """Messages that wait, and those that come (again) at a moment."""

    def __init__(self) -> None:
        self.ready = deque[Said]()
        self.later: list[tuple[float, int, Said]] = []
        self.held: dict[str, Said] = {}
        """By the handle of the last receive."""
        self.arrived = asyncio.Event()
        self._numbers = count()

    def send(self, said: Said) -> Said:
        number = next(self._numbers)
        sent = str(int(time.time() * 1e3))
        message = {"Id": f"m{number}", "Body": said["MessageBody"], "Sent": sent, "Receives": 0, "First": sent}
        message["MessageAttributes"] = said.get("MessageAttributes", {})
        self.put(message, float(said.get("DelaySeconds", 0)))
        return {"MessageId": message["Id"], "MD5OfMessageBody": ""}

    def attributes(self) -> Said:
        return {"VisibilityTimeout": "30", "ApproximateNumberOfMessages": str(len(self.ready))}

    def put(self, message: Said, after: float) -> None:
        if after > 0:
            heapq.heappush(self.later, (time.monotonic() + after, next(self._numbers), message))
            return
        self.ready.append(message)
        self.arrived.set()

    def receive(self, most: int, visibility: float) -> list[Said]:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            until, _, message = heapq.heappop(self.later)
            # A held one whose lease was changed, or that was deleted, stands here with its old moment.
            if message.get("Until", until) == until:
                self.held.pop(message.pop("Handle", ""), None)
                message.pop("Until", None)
                self.ready.append(message)
        found = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
        return [self._lease(message, now + visibility) for message in found]

    def _lease(self, message: Said, until: float) -> Said:
        handle = f"h{next(self._numbers)}"
        message["Receives"] += 1
        if message["Receives"] == 1:
            message["First"] = str(int(time.time() * 1e3))
        self.held[handle] = message
        message["Handle"] = handle
        self.hide(message, until)
        return {
            "MessageId": message["Id"],
            "ReceiptHandle": handle,
            "Body": message["Body"],
            "MessageAttributes": message["MessageAttributes"],
            "Attributes": {
                "SentTimestamp": message["Sent"],
                "ApproximateReceiveCount": str(message["Receives"]),
                "ApproximateFirstReceiveTimestamp": message["First"],
            },
        }

    def hide(self, message: Said, until: float) -> None:
        message["Until"] = until
        heapq.heappush(self.later, (until, next(self._numbers), message))

    def delete(self, said: Said) -> Said:
        if message := self.held.pop(said["ReceiptHandle"], None):
            message["Until"] = 0.0
        return {}

    def change(self, said: Said) -> Said:
        if message := self.held.get(said["ReceiptHandle"]):
            self.hide(message, time.monotonic() + float(said["VisibilityTimeout"]))
        return {}


class Service:
    """The calls, by name."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._queues: dict[str, Queue] = {}
        self._calls = 0

    async def answer(self, action: str, said: Said) -> Said:
        if not action:
            return {"Calls": self._calls}
        self._calls += 1
        if action == "ListQueues":
            return {"QueueUrls": list(self._queues)}
        if action in ("CreateQueue", "GetQueueUrl"):
            address = f"{self._url}/1/{said['QueueName']}"
            self._queues.setdefault(address, Queue())
            return {"QueueUrl": address}
        queue = self._queues[said["QueueUrl"]]
        if action == "ReceiveMessage":
            return await self._receive(queue, said)
        single = action.removesuffix("Batch")
        verbs: Mapping[str, Callable[[Said], Said]] = {
            "SendMessage": queue.send,
            "DeleteMessage": queue.delete,
            "ChangeMessageVisibility": queue.change,
            "GetQueueAttributes": lambda _: {"Attributes": queue.attributes()},
        }
        if single == action:
            return verbs[action](said)
        done = [{"Id": entry["Id"], **verbs[single](entry)} for entry in said["Entries"]]
        return {"Successful": done, "Failed": []}

    async def _receive(self, queue: Queue, said: Said) -> Said:
        most, visibility = int(said.get("MaxNumberOfMessages", 1)), float(said.get("VisibilityTimeout", 30))
        until = time.monotonic() + float(said.get("WaitTimeSeconds", 0))
        while not (found := queue.receive(most, visibility)):
            left = until - time.monotonic()
            if left <= 0:
                break
            queue.arrived.clear()
            ahead = queue.later[0][0] - time.monotonic() if queue.later else left
            try:
                await asyncio.wait_for(queue.arrived.wait(), max(min(left, ahead), 0.001))
            except TimeoutError:
                continue
        return {"Messages": found} if found else {}


async def serve(port: int) -> None:
    """Answer calls until killed."""
    service = Service(f"http://127.0.0.1:{port}")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(_header(head, b"content-length") or 0))
                action = _ACTIONS.get(_header(head, b"x-amz-target").rpartition(b".")[2], "")
                text = json.encode(await service.answer(action, json.decode(body)))
                date = formatdate(usegmt=True)
                kind = "Content-Type: application/x-amz-json-1.0\r\n"
                writer.write(
                    f"HTTP/1.1 200 OK\r\n{kind}Date: {date}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


_NAMES = (
    *("ListQueues", "CreateQueue", "GetQueueUrl", "GetQueueAttributes", "ReceiveMessage", "SendMessage"),
    *("SendMessageBatch", "DeleteMessage", "DeleteMessageBatch"),
    *("ChangeMessageVisibility", "ChangeMessageVisibilityBatch"),
)
_ACTIONS = {name.lower().encode(): name for name in _NAMES}


def _header(head: bytes, name: bytes) -> bytes:
    _, _, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
