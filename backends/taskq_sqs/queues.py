"""The queues on the service: where each is, made if asked for, and its calls in batches."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from taskq.errors import BrokerRejected
from taskq_sqs.batches import Answer, Batches, Fields
from taskq_sqs.client import Client, Nothing
from taskq_sqs.faults import code_of
from taskq_sqs.names import FIFO, Names
from taskq_sqs.settings import Settings

RETENTION = 1_209_600
"""Seconds, the longest there is: what waits longer is lost."""
MAX_RECEIVES = 1000
"""After so many, the most there are, the service itself sets a message aside. Workers do that long before; but each
time that a message is hidden for a while counts, too."""

T = TypeVar("T")


class Named(Struct):
    """A request that names a queue."""

    QueueName: str


class Found(Struct):
    """Where a queue is."""

    QueueUrl: str


class Of(Struct):
    """A request about a queue."""

    QueueUrl: str
    AttributeNames: Sequence[str] = ()


class Attributed(Struct):
    """The attributes of a queue."""

    Attributes: Mapping[str, str] = {}


class _Batch(Struct):
    QueueUrl: str
    Entries: Sequence[Fields]


class _Make(Struct):
    QueueName: str
    Attributes: Mapping[str, str]


class _Change(Struct):
    QueueUrl: str
    Attributes: Mapping[str, str]


class _List(Struct):
    QueueNamePrefix: str
    MaxResults: int = 1000


class _Listed(Struct):
    QueueUrls: Sequence[str] = ()


class Queues:
    """From names to addresses, looked up once each."""

    def __init__(self, client: Client, names: Names, settings: Settings) -> None:
        self.client = client
        self.names = names
        self.settings = settings
        self._urls: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._batches: dict[tuple[str, str], Batches] = {}

    async def url(self, name: str) -> str:
        """Where it is. Raises BrokerRejected, naming the remedy, when it is missing."""
        found = self._urls.get(name)
        if found is not None:
            return found
        async with self._lock:
            if name not in self._urls:
                self._urls[name] = await self.find(name) or await self._missing(name)
            return self._urls[name]

    async def find(self, name: str) -> str | None:
        """The same, asked anew; None when it is missing."""
        try:
            return (await self.client.call("GetQueueUrl", Named(name), Found)).QueueUrl
        except BrokerRejected as error:
            if error.__cause__ is not None and code_of(error.__cause__) == "QueueDoesNotExist":
                return None
            raise

    async def call(self, action: str, name: str, request: Struct, answer: type[T], *, wait: float = 0.0) -> T:
        """A call about a queue; one that turns out to be gone is looked up again next time."""
        try:
            return await self.client.call(action, request, answer, wait=wait)
        except BrokerRejected as error:
            if error.__cause__ is not None and code_of(error.__cause__) == "QueueDoesNotExist":
                self._urls.pop(name, None)
                raise BrokerRejected(_absent(name)) from error.__cause__
            raise

    def batches(self, action: str, name: str) -> Batches:
        """The calls of one kind to one queue."""
        key = (action, name)
        if key not in self._batches:
            self._batches[key] = Batches(action, partial(self._send, action, name), self.settings.max_size)
        return self._batches[key]

    async def make(self, name: str, attributes: Mapping[str, str]) -> str:
        """Make a queue with these attributes, or find the one that has them."""
        return (await self.client.call("CreateQueue", _Make(name, attributes), Found)).QueueUrl

    async def attributes(self, url: str) -> Mapping[str, str]:
        """What a queue is set to."""
        return (await self.client.call("GetQueueAttributes", Of(url, ["All"]), Attributed)).Attributes

    async def change(self, url: str, attributes: Mapping[str, str]) -> None:
        """Set a queue to these attributes; the others stay."""
        await self.client.call("SetQueueAttributes", _Change(url, attributes), Nothing)

    async def known(self) -> list[str]:
        """The names of all queues with our prefix."""
        urls = (await self.client.call("ListQueues", _List(f"{self.names.prefix}-"), _Listed)).QueueUrls
        return [url.rpartition("/")[2] for url in urls]

    async def _missing(self, name: str) -> str:
        if not self.settings.create:
            raise BrokerRejected(_absent(name))
        queue = self.names.queue_of(name)
        if queue is None or name == self.names.dead(queue):
            return await self.make(name, declared(name, None))
        dead = self.names.dead(queue)
        if dead not in self._urls:
            self._urls[dead] = await self.make(dead, declared(dead, None))
        return await self.make(name, declared(name, await self.attributes(self._urls[dead])))

    async def _send(self, action: str, name: str, entries: Sequence[Fields]) -> Answer:
        return await self.call(action, name, _Batch(await self.url(name), entries), Answer)


def declared(name: str, dead: Mapping[str, str] | None) -> dict[str, str]:
    """The attributes that a queue of this name is to have, beside one with these for its dead letters."""
    attributes = {"MessageRetentionPeriod": str(RETENTION), "ReceiveMessageWaitTimeSeconds": "20"}
    if name.endswith(FIFO):
        attributes |= {"FifoQueue": "true", "DeduplicationScope": "messageGroup"}
        attributes |= {"FifoThroughputLimit": "perMessageGroupId"}
    if dead is not None:
        redrive = {"deadLetterTargetArn": dead.get("QueueArn", ""), "maxReceiveCount": MAX_RECEIVES}
        attributes["RedrivePolicy"] = msgspec.json.encode(redrive).decode()
    return attributes


def _absent(name: str) -> str:
    return (
        f"there is no SQS queue {name!r} in this account and region: run `taskq sqs apply`, or add create=1 to the URL "
        "for development"
    )


async def each(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them answer; raises the first error when each has ended."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]
