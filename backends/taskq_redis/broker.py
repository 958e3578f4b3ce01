"""The four verbs: each is one script call for every queue and thousand jobs, all of a call in one write."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from functools import partial
from math import inf
from secrets import token_hex
from typing import Any

from msgspec import msgpack

from taskq.broker import Traits
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, Conflict, PartlySettled
from taskq.job import Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq_redis.absence import Absences
from taskq_redis.extender import CHUNK, TOKEN, by_queue, each, extend, text
from taskq_redis.faults import DRIVER_ERRORS
from taskq_redis.keys import encoded
from taskq_redis.listener import Listener
from taskq_redis.rows import (
    Decoders,
    Line,
    delivery_of,
    is_plain,
    line_of,
    microseconds,
    refusal,
    settlement_of,
    text_of,
)
from taskq_redis.scripts import Script
from taskq_redis.setback import KEPT, Look, Setbacks
from taskq_redis.tools import Tools
from taskq_redis.waiting import DEAF, Waiting, Wish
from taskq_redis.wire import Argument, Reply

_CHUNK_BYTES = 4 << 20


class RedisBroker:
    """A queue on Redis or Valkey."""

    def __init__(self, tools: Tools, traits: Traits, listener: Listener) -> None:
        self._tools = tools
        self._traits = traits
        self._encode = msgpack.Encoder()
        self._decode = Decoders()
        self._waiting = Waiting(listener, self._leave, self._calls)
        self._setbacks = Setbacks(tools.client.name)
        self._absences = Absences(tools.client.name)
        self._abandoned: set[asyncio.Future[Any]] = set()

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        if len(jobs) == 1 and await self._added_alone(jobs[0]):
            return [Enqueued(jobs[0].id, True)]
        answers: list[Enqueued] = [Enqueued(job.id, True) for job in jobs]
        chunks: list[Coroutine[Any, Any, None]] = []
        for partition, lines in self._lines(jobs, answers).items():
            for first, end in _chunks([len(jobs[at].body) for at, _ in lines]):
                chunks.append(self._enqueue_or_tell(partition, lines[first:end], jobs, answers))
        await each(chunks)
        lost = [answer.error for answer in answers if isinstance(answer.error, BrokerUnavailable)]
        if lost and len(lost) == len(jobs):
            raise lost[0]
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        if wait <= 0:
            return await self._claim(queues, limit, lease, None)
        loop = asyncio.get_running_loop()
        until, roused = loop.time() + wait, self._waiting.roused
        async with self._waiting.wish(queues) as wish:
            while not self._waiting.closed and self._waiting.roused == roused:
                if wish.bell.rung or wish.look_at <= loop.time():
                    wish.bell.rung = False
                    taken = await self._claim(queues, limit, lease, wish)
                    if taken:
                        return taken
                left = until - loop.time()
                if left <= 0:
                    return []
                await self._waiting.until_told(wish, left)
        return []

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        answers: list[bool | None] = [False] * len(settlements)
        parts = await by_queue(self._tools, [settlement.receipt for settlement in settlements])
        for _, found in parts:
            for at, _, _ in found:
                answers[at] = None
        script, window = self._tools.scripts.settle, microseconds(self._tools.settings.dedup_window)

        async def settle(queue: str, found: Sequence[tuple[int, str, str]]) -> None:
            packed = self._encode.encode([settlement_of(job, token, settlements[at]) for at, token, job in found])
            said = await self._tools.client.run(script, self._tools.keys.queue(queue), packed, window)
            for (at, _, _), answer in zip(found, text(said), strict=True):
                answers[at] = answer == ord("1")

        try:
            await each([settle(queue, found) for queue, found in parts])
        except BrokerUnavailable as error:
            if any(answers[found[0][0]] is not None for _, found in parts):
                raise PartlySettled(f"some jobs were settled, others not: {error}", answers) from error.__cause__
            raise
        return [answer is True for answer in answers]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._tools, receipts, lease)

    def rouse(self) -> None:
        """End the fetches that wait."""
        self._waiting.rouse()

    async def close(self) -> None:
        """Take back what waits and what was given to nobody, as far as the servers can be reached."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1.0)
        await self._waiting.close()

    # Steps

    async def _added_alone(self, job: Job) -> bool:
        """Add a plain job at the least cost; False where there is more to say, and nothing has changed."""
        if not is_plain(job) or len(job.body) > self._tools.settings.max_size:
            return False
        keys = self._tools.keys
        try:
            call, known_keys = self._encode.encode((job.task, job.body)), keys.plain(keys.partition(job))
            name = job.id.encode()
        except (UnicodeEncodeError, BrokerRejected):
            return False
        return await self._adding(self._tools.scripts.enqueue_plain, known_keys, name, call) == 1

    def _lines(self, jobs: Sequence[Job], answers: list[Enqueued]) -> dict[str, list[tuple[int, Line]]]:
        """The jobs as the script takes them, by partition; what is refused gets its answer here."""
        lines: dict[str, list[tuple[int, Line]]] = {}
        for at, job in enumerate(jobs):
            refused = refusal(job, self._tools.settings.max_size, self._tools.keys.count)
            if refused is None:
                try:
                    self._tools.keys.queue(job.queue)
                    line = line_of(job, self._encode)
                    for text in filter(None, (job.id, job.unique, job.group, job.tenant)):
                        encoded(text)
                    lines.setdefault(self._tools.keys.partition(job), []).append((at, line))
                    continue
                except UnicodeEncodeError as error:
                    refused = BrokerRejected(f"job {job.id!r}: text that is not valid Unicode cannot be stored")
                    refused.__cause__ = error
                except BrokerRejected as error:
                    refused = error
            answers[at] = Enqueued(job.id, False, refused)
        return lines

    async def _enqueue_or_tell(
        self, partition: str, lines: Sequence[tuple[int, Line]], jobs: Sequence[Job], answers: list[Enqueued]
    ) -> None:
        try:
            await self._enqueue(partition, lines, jobs, answers)
        except BrokerUnavailable as error:
            # Others of the call, which may be on another node, are there all the same.
            for at, _ in lines:
                answers[at] = Enqueued(jobs[at].id, False, error)

    async def _enqueue(
        self, partition: str, lines: Sequence[tuple[int, Line]], jobs: Sequence[Job], answers: list[Enqueued]
    ) -> None:
        scripts, keys = self._tools.scripts, self._tools.keys
        plain = [part for _, line in lines if len(line) == 2 for part in line]
        # One that came by itself has been tried already.
        all_plain = len(jobs) > 1 and len(plain) == 2 * len(lines) and len({*plain[::2]}) == len(lines)
        if all_plain and await self._adding(scripts.enqueue_plain, keys.plain(partition), *plain) == 1:
            return
        packed = self._encode.encode([(name, text_of(call), *rest) for _, (name, call, *rest) in lines])
        match await self._adding(scripts.enqueue, keys.queue(partition), packed):
            case []:
                return
            case [*refused]:
                for turn, what, holder in zip(refused[::3], refused[1::3], refused[2::3], strict=True):
                    at = lines[_number(turn)][0]
                    answers[at] = _answer(jobs[at], what, text(holder).decode())
            case said:
                raise BrokerRejected(f"a script answered {said!r}")

    async def _adding(self, script: Script, keys: Sequence[bytes], *arguments: Argument) -> Reply:
        client, settings = self._tools.client, self._tools.settings
        replicas, disk = settings.wait_replicas, settings.wait_disk
        if not replicas and not disk:
            return await client.run(script, keys, *arguments)
        patience = settings.patience
        return await client.run_confirmed(script, keys, *arguments, replicas=replicas, disk=disk, patience=patience)

    async def _claim(self, queues: Sequence[str], limit: int, lease: float, wish: Wish | None) -> list[Delivery]:
        """What can be leased now. One call for all queues, where all are on one server."""
        taken: list[Delivery] = []
        partitions = self._partitions(queues)
        calls = [[partition] for partition in partitions] if self._tools.clustered else [partitions]
        problem: BrokerUnavailable | None = None
        moment, answered = inf, 0
        for named in calls:
            try:
                got, next_moment = await self._claim_from(named, limit - len(taken), lease, wish, waits=not taken)
            except BrokerUnavailable as error:
                if len(calls) == 1:
                    raise
                # What others gave must not be lost with it, and their queues are to be served.
                self._absences.note(named[0], error)
                problem, moment = error, min(moment, DEAF)
                continue
            self._absences.answered(named[0])
            answered += 1
            taken += got
            moment = min(moment, next_moment)
            if len(taken) >= limit:
                break
        if problem is not None and not taken and (wish is None or not answered):
            raise problem
        if wish is not None and taken:
            wish.waits, wish.look_at = self._tools.clustered and len(calls) > 1, -inf
        elif wish is not None:
            self._waiting.found_nothing(wish, moment)
        return taken

    async def _claim_from(
        self, named: Sequence[str], limit: int, lease: float, wish: Wish | None, *, waits: bool
    ) -> tuple[list[Delivery], float]:
        """What partitions of one server have, and in how many seconds the next job becomes due."""
        patience = wish.patience if wish is not None and waits else 0
        member, waited = (wish.bell.member, int(wish.waits)) if wish is not None else (b"", 0)
        if wish is not None and patience:
            wish.waits = True
        token, known = token_hex(TOKEN // 2), self._setbacks.known(named[0])
        kept, room = microseconds(KEPT), min(limit, CHUNK)
        arguments = (room, microseconds(lease), token, patience, member, waited, kept, known.latest)
        keys, give_back = self._tools.keys.queues(named), partial(self._abandon, named)
        reply = await self._tools.client.run(self._tools.scripts.claim, keys, *arguments, abandoned=give_back)
        got, moment, looks = self._delivered(named, reply)
        self._setbacks.compare(named[0], known, *looks)
        return got, moment

    def _delivered(self, partitions: Sequence[str], reply: Reply) -> tuple[list[Delivery], float, tuple[int, Look]]:
        """The deliveries, in how many seconds the next job becomes due if this fetch keeps the time, and what the
        server says of the look before this one and of this one."""
        match reply:
            case [int(now), int(moment), [*counts], [*items], int(before), int(since), int(latest)]:
                pass
            case _:
                raise BrokerRejected(f"a script answered {reply!r}")
        deliveries: list[Delivery] = []
        moved, seconds = iter(items), now / 1e6
        decode_row, decode_call = self._decode.row, self._decode.call.decode
        for partition, count in zip(partitions, counts, strict=True):
            queue = partition.partition("#")[0]
            for _ in range(_number(count)):
                name, row, call, error = next(moved), next(moved), next(moved), next(moved)
                delivery = delivery_of(
                    queue,
                    partition,
                    text(name).decode(),
                    decode_row(text(row)),
                    decode_call(text(call)),
                    error if isinstance(error, bytes) else None,
                    seconds,
                )
                deliveries.append(delivery)
        return deliveries, (moment - now) / 1e6 if moment else inf, (before, Look(since, latest))

    def _abandon(self, partitions: Sequence[str], reply: asyncio.Future[Reply]) -> None:
        """The caller was cancelled: what comes is given back."""
        returning = asyncio.get_running_loop().create_task(self._give_back(partitions, reply))
        self._abandoned.add(returning)
        returning.add_done_callback(self._abandoned.discard)

    async def _give_back(self, partitions: Sequence[str], reply: asyncio.Future[Reply]) -> None:
        try:
            taken, _, _ = self._delivered(partitions, await reply)
            await self.settle([Nack(delivery.receipt, 0.0, counted=False) for delivery in taken])
        except (BrokerError, *DRIVER_ERRORS):
            # Nobody's failure: the leases will end by themselves.
            return

    def _calls(self, queues: Sequence[str]) -> int:
        """How many calls a look into them takes."""
        return len(queues) * self._tools.keys.count if self._tools.clustered else 1

    def _partitions(self, queues: Sequence[str]) -> list[str]:
        """The partitions of queues: those of one queue in any order, so that none of them is always the last."""
        keys = self._tools.keys
        if keys.count == 1:
            return list(queues)
        return [partition for queue in queues for partition in random.sample(keys.partitions(queue), keys.count)]

    async def _leave(self, wish: Wish) -> None:
        leave, keys = self._tools.scripts.leave, self._tools.keys
        partitions = self._partitions(wish.queues)
        calls = [[partition] for partition in partitions] if self._tools.clustered else [partitions]
        try:
            for named in calls:
                await self._tools.client.run(leave, keys.queues(named), wish.bell.member)
        except BrokerError:
            # The server stops counting on it by itself.
            return


def _chunks(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """First and end of parts that are neither too many nor too large for one script call."""
    parts: list[tuple[int, int]] = []
    first = held = 0
    for at, size in enumerate(sizes):
        if at - first >= CHUNK or (at > first and held + size > _CHUNK_BYTES):
            parts.append((first, at))
            first, held = at, 0
        held += size
    if sizes:
        parts.append((first, len(sizes)))
    return parts


def _answer(job: Job, what: Reply, holder: str) -> Enqueued:
    if what == b"conflict":
        message = f"job {holder} holds the unique key {job.unique!r} of queue {job.queue!r}"
        return Enqueued(holder, False, Conflict(message, holder))
    return Enqueued(holder, False)


def _number(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise BrokerRejected(f"a script answered {reply!r}")
