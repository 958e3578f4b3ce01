"""The four verbs on SQS."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Traits
from taskq.errors import BrokerRejected, BrokerUnavailable, TaskqError
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq_sqs import message
from taskq_sqs.batches import Fields
from taskq_sqs.client import Client
from taskq_sqs.deliveries import SEEN, Message, Received, delivery_of, moment_of
from taskq_sqs.extender import change, extend, ping, stands, visibility
from taskq_sqs.message import Body, Receipt, Undecodable
from taskq_sqs.queues import Queues, each
from taskq_sqs.receives import PRECEDENCE, Receives

_log = logging.getLogger("taskq")

_GUARD = 30.0
"""Seconds a lease is extended before a job is sent again, so that nobody else has it meanwhile."""


class _Receive(Struct):
    QueueUrl: str
    MaxNumberOfMessages: int
    VisibilityTimeout: int
    WaitTimeSeconds: int
    AttributeNames: Sequence[str] = SEEN


class SqsBroker:
    """Queues on SQS."""

    def __init__(self, queues: Queues, traits: Traits) -> None:
        self._queues = queues
        self._settings = queues.settings
        self._traits = traits
        self._receives: dict[tuple[str, int], Receives] = {}
        self._closed = asyncio.Event()
        self._serials = count()
        self._roused = 0

    @property
    def client(self) -> Client:
        """What all calls go through."""
        return self._queues.client

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        sent = await asyncio.gather(*(self._enqueue(job) for job in jobs))
        answers = [Enqueued(job.id, error is None, error) for job, error in zip(jobs, sent, strict=True)]
        lost = [error for error in sent if isinstance(error, BrokerUnavailable)]
        if lost and len(lost) == len(jobs):
            raise lost[0]
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        self._check_open()
        sources = [self._source(queue, band) for queue in queues for band in self._settings.bands]
        if wait <= 0:
            return await _look(sources, limit, lease)
        bell, loop = asyncio.Event(), asyncio.get_running_loop()
        until, roused = loop.time() + wait, self._roused
        for source in sources:
            source.bells.append(bell)
        try:
            while True:
                bell.clear()
                if len(sources) > 1:
                    # Before the later ones are looked at.
                    _poll(sources, limit, lease, self._settings.poll)
                taken = _take(sources, limit, lease)
                left = until - loop.time()
                if taken or left <= 0 or self._closed.is_set() or self._roused != roused:
                    return taken
                _poll(sources, limit, lease, self._settings.poll)
                await self._until(bell, min(left, PRECEDENCE) if len(sources) > 1 and sources[0].expected else left)
        finally:
            for source in sources:
                source.bells.remove(bell)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        answers = [False] * len(settlements)
        held: dict[str, tuple[int, Receipt]] = {}
        for at, settlement in enumerate(settlements):
            receipt = message.read_receipt(settlement.receipt)
            if receipt is not None:
                held.setdefault(settlement.receipt, (at, receipt))
        if settlements and not held:
            await ping(self._queues)
        ends = await each([self._settle(settlements[at], receipt) for at, receipt in held.values()])
        for (at, _), settled in zip(held.values(), ends, strict=True):
            answers[at] = settled
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._queues, receipts, lease)

    def rouse(self) -> None:
        """End the fetches that wait; what a poll under way brings is there for the next one, or handed back."""
        self._roused += 1
        for source in self._receives.values():
            for bell in source.bells:
                bell.set()

    async def close(self) -> None:
        """Wait for the polls that are under way, hand back what they bring, and end the connections."""
        self._closed.set()
        self.rouse()
        await asyncio.gather(*(source.close() for source in self._receives.values()))
        await self._queues.client.close()

    # Steps

    async def _enqueue(self, job: Job) -> TaskqError | None:
        """Why it was not added."""
        names, clock = self._queues.names, self._queues.client.clock
        try:
            text = message.written(job, self._settings.max_size)
            name = names.of(job.queue, names.band_of(job.priority))
            await self._queues.url(name)
            delay = job.delay if job.run_at is None else job.run_at - clock.now()
            await self._send(name, text, delay, group=self._group(job), copy=job.id)
        except (BrokerRejected, BrokerUnavailable) as error:
            return error
        return None

    async def _send(self, name: str, text: bytes, delay: float, *, group: str, copy: str) -> None:
        """``copy`` is what tells this message from others of its job, and not from a repetition of this call."""
        fields = Fields(MessageBody=text.decode())
        if group:
            fields.MessageGroupId = message.token(group)
        if self._settings.fifo:
            fields.MessageDeduplicationId = message.token(copy)
        else:
            fields.DelaySeconds = message.hop(delay)
        entry = self._queues.batches("SendMessageBatch", name).add(fields, len(text))
        if not await stands(entry):
            raise BrokerRejected(f"SQS refused a message to {name!r}")

    def _group(self, job: Job | Body) -> str:
        """What a FIFO queue keeps in order; between what a standard queue is fair."""
        return job.group or job.id or "" if self._settings.fifo else job.tenant or ""

    async def _settle(self, settlement: Settlement, held: Receipt) -> bool:
        match settlement:
            case Ack():
                return await self._delete(held)
            case Nack():
                return await self._give_back(held, settlement)
            case DeadLetter():
                aside = message.set_aside(held, settlement.outcome)
                return await self._replace(held, self._queues.names.dead(held.queue), aside, 0.0, "dead")

    async def _give_back(self, held: Receipt, nack: Nack) -> bool:
        names, now = self._queues.names, self._queues.client.clock.now()
        again = message.again(held, nack, now)
        delay = again.run_at - now if again.run_at is not None else again.delay or 0.0
        return await self._replace(held, names.of(held.queue, held.band), again, delay, str(held.fence))

    async def _replace(self, held: Receipt, name: str, body: Body, delay: float, copy: str) -> bool:
        """Send first, then delete: a crash in between doubles the job, and never loses it."""
        text = message.fitting(body, self._settings.max_size)
        if not await change(self._queues, held, _GUARD):
            return False
        await self._send(name, text, delay, group=self._group(body), copy=f"{body.id} {copy}")
        await self._delete(held)
        return True

    async def _delete(self, held: Receipt) -> bool:
        name = self._queues.names.of(held.queue, held.band)
        return await stands(self._queues.batches("DeleteMessageBatch", name).add(Fields(ReceiptHandle=held.handle)))

    def _source(self, queue: str, band: int) -> Receives:
        key = (queue, band)
        if key not in self._receives:
            self._receives[key] = Receives(partial(self._receive, queue, band), self.hand_back)
        return self._receives[key]

    async def _receive(self, queue: str, band: int, count: int, lease: float, wait: float) -> list[Delivery]:
        name, clock = self._queues.names.of(queue, band), self._queues.client.clock
        url, asked = await self._queues.url(name), time.monotonic()
        request = _Receive(url, count, visibility(lease), int(wait))
        found = (await self._queues.call("ReceiveMessage", name, request, Received, wait=wait)).Messages
        answered = time.monotonic()
        for earliest, latest in map(moment_of, found):
            clock.tell(earliest, latest, asked=asked, answered=answered)
        fifo, deliveries = self._settings.fifo, list[Delivery]()
        for one in found:
            try:
                deliveries.append(
                    delivery_of(one, queue, band, next(self._serials), lease=lease, now=clock.now(), fifo=fifo)
                )
            except Undecodable as error:
                await self._put_away(one, queue, name, error)
        return await self._due(await self._first_of_groups(deliveries)) if fifo else deliveries

    async def _first_of_groups(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Of each group one: the service hands out several at once, which would then run side by side."""
        first: dict[str, Delivery] = {}
        for delivery in deliveries:
            first.setdefault(delivery.job.group or delivery.job.id, delivery)
        if len(first) < len(deliveries):
            await self.hand_back([one for one in deliveries if one not in first.values()])
        return list(first.values())

    async def _due(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Without those that came too soon: a FIFO queue delays no single message, so these stay leased till then."""
        early = [delivery for delivery in deliveries if delivery.due > delivery.now]
        calls = [extend(self._queues, [delivery.receipt], delivery.due - delivery.now) for delivery in early]
        await each(calls)
        return [delivery for delivery in deliveries if delivery.due <= delivery.now]

    async def _put_away(self, one: Message, queue: str, name: str, error: Undecodable) -> None:
        """A message that is no job can run nowhere: to the dead letters with it, as it is."""
        _log.error("a message of %s is no job, and was set aside with the dead letters: %s", name, error)
        await self._send(
            self._queues.names.dead(queue),
            one.Body.encode(),
            0.0,
            group=one.MessageId if self._settings.fifo else "",
            copy=one.MessageId,
        )
        await stands(self._queues.batches("DeleteMessageBatch", name).add(Fields(ReceiptHandle=one.ReceiptHandle)))

    async def hand_back(self, deliveries: Sequence[Delivery]) -> None:
        """Nobody came for them: due at once, and no loss."""
        held = filter(None, [message.read_receipt(delivery.receipt) for delivery in deliveries])
        # Those that fail come back when their leases end.
        await asyncio.gather(*map(self._return, held), return_exceptions=True)

    async def _return(self, held: Receipt) -> None:
        """Visible at once; sent anew when that was done before, because SQS counts receives and we count losses."""
        name, body = self._queues.names.of(held.queue, held.band), message.read(held.text)
        if self._settings.fifo or held.fence == body.fence + 1:
            fields = Fields(ReceiptHandle=held.handle, VisibilityTimeout=0)
            await self._queues.batches("ChangeMessageVisibilityBatch", name).add(fields)
            return
        unlost = replace(held, losses=body.losses)
        again = message.again(unlost, Nack("", 0.0, counted=False), self._queues.client.clock.now())
        await self._send(name, message.fitting(again, self._settings.max_size), 0.0, group=self._group(again), copy="")
        await self._delete(held)

    async def _until(self, bell: asyncio.Event, left: float) -> None:
        try:
            async with asyncio.timeout(left):
                await bell.wait()
        except TimeoutError:
            return

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise BrokerUnavailable("SQS: this backend is closed")


async def _look(sources: Sequence[Receives], limit: int, lease: float) -> list[Delivery]:
    taken: list[Delivery] = []
    for source in sources:
        if len(taken) < limit:
            taken += await source.look(limit - len(taken), lease)
    return taken


def _take(sources: Sequence[Receives], limit: int, lease: float) -> list[Delivery]:
    taken: list[Delivery] = []
    for source in sources:
        taken += source.take(limit - len(taken), lease)
        if source.expected:
            break
    return taken


def _poll(sources: Sequence[Receives], limit: int, lease: float, wait: float) -> None:
    """Poll all; what comes first in line and has enough keeps the others from it."""
    for source in sources:
        if limit <= 0:
            return
        limit -= source.poll(limit, lease, wait)
