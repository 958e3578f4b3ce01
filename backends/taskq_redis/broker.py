"""The four verbs: each is one script call for every queue and thousand jobs, all of a call in one write."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from msgspec import msgpack

from taskq.broker import Traits
from taskq.errors import BrokerRejected, BrokerUnavailable, Conflict, PartlySettled
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq_redis.extender import CHUNK, by_queue, each, extend, text
from taskq_redis.fetching import Fetching
from taskq_redis.keys import encoded
from taskq_redis.listener import Listener
from taskq_redis.rows import (
    Line,
    is_plain,
    line_of,
    microseconds,
    refusal,
    settlement_of,
    text_of,
)
from taskq_redis.scripts import Script
from taskq_redis.store import packed_members
from taskq_redis.tools import Tools
from taskq_redis.wire import Argument, Reply

_CHUNK_BYTES = 4 << 20


class RedisBroker:
    """A queue on Redis or Valkey."""

    def __init__(self, tools: Tools, traits: Traits, listener: Listener) -> None:
        self._tools = tools
        self._traits = traits
        self._encode = msgpack.Encoder()
        self._fetching = Fetching(tools, listener, self._give_back)
        self.rouse = self._fetching.rouse
        """End the fetches that wait."""
        self.close = self._fetching.close

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        if len(jobs) == 1 and await self._added_alone(jobs[0]):
            return [Enqueued(jobs[0].id, True)]
        added = len(jobs) > 1 and await self._added_together(jobs)
        answers = [Enqueued(job.id, True) for job in jobs]
        if added:
            return answers
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
        return await self._fetching.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        receipts = [settlement.receipt for settlement in settlements]
        return await self._settle(receipts, lambda at, token, job: settlement_of(job, token, settlements[at]))

    async def discard_and_settle(
        self, key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> list[bool] | None:
        """As :class:`~taskq.broker.DiscardAndSettle`, where a script reaches all keys."""
        parts = await by_queue(self._tools, [settlement.receipt for settlement in settlements])
        if len(parts) > 1:
            raise BrokerRejected(f"one call settles {CHUNK} jobs of one queue: settle the others by another")
        tools = self._tools
        # Void receipts are of no queue.
        queue, found = parts[0] if parts else ("", ())
        packed = self._encode.encode([settlement_of(job, token, settlements[at]) for at, token, job in found])
        keys = [*tools.keys.queue(queue), *tools.keys.entry(key)]
        window = microseconds(tools.settings.dedup_window)
        script = tools.scripts.discard_and_settle
        said = await tools.client.run(script, keys, packed, window, packed_members(members))
        if said is None:
            return None
        answers = [False] * len(settlements)
        for (at, _, _), answer in zip(found, text(said), strict=True):
            answers[at] = answer == ord("1")
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._tools, receipts, lease)

    # Steps

    async def _give_back(self, receipts: Sequence[str]) -> None:
        """Whom these were leased to never had them: they stand where they stood before."""
        await self._settle(receipts, lambda _at, token, job: (job, token, "back"))

    async def _settle(
        self, receipts: Sequence[str], settlement: Callable[[int, str, str], tuple[object, ...]]
    ) -> list[bool]:
        """``settlement`` is what the script is told of each, by its number, its token and its job."""
        answers: list[bool | None] = [False] * len(receipts)
        parts = await by_queue(self._tools, receipts)
        for _, found in parts:
            for at, _, _ in found:
                answers[at] = None
        script, window = self._tools.scripts.settle, microseconds(self._tools.settings.dedup_window)

        async def settle(queue: str, found: Sequence[tuple[int, str, str]]) -> None:
            packed = self._encode.encode([settlement(*one) for one in found])
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

    async def _added_alone(self, job: Job) -> bool:
        """Add a plain job at the least cost; False where there is more to say, and nothing has changed."""
        if not is_plain(job) or len(job.body) > self._tools.settings.max_size:
            return False
        keys = self._tools.keys
        try:
            call, known_keys = self._encode.encode((job.task, job.body)), keys.lone(keys.partition(job))
            name = job.id.encode()
        except (UnicodeEncodeError, BrokerRejected):
            return False
        return await self._adding(self._tools.scripts.enqueue_one, known_keys, name, call) == 1

    async def _added_together(self, jobs: Sequence[Job]) -> bool:
        """The same for plain jobs of one queue that one script call takes."""
        tools, encode, queue = self._tools, self._encode.encode, jobs[0].queue
        if tools.keys.count > 1 or len(jobs) > CHUNK:
            return False
        said: list[Argument] = []
        size, max_size = 0, tools.settings.max_size
        try:
            known_keys = tools.keys.plain(queue)
            for job in jobs:
                body = job.body
                size += len(body)
                if job.queue != queue or len(body) > max_size or size > _CHUNK_BYTES or not is_plain(job):
                    return False
                said += (job.id.encode(), encode((job.task, body)))
        except (UnicodeEncodeError, BrokerRejected):
            return False
        if len({*said[::2]}) < len(jobs):
            return False
        return await self._adding(tools.scripts.enqueue_plain, known_keys, *said) == 1

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
        # All of a call, at one place, have been tried already.
        all_plain = len(lines) < len(jobs) and len(plain) == 2 * len(lines) and len({*plain[::2]}) == len(lines)
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
