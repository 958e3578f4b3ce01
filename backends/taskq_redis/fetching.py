"""A fetch: it looks, waits, and looks again; what nobody waits for any more is given back."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from secrets import token_hex
from struct import Struct

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable
from taskq.job import Delivery
from taskq_redis.absence import Absences
from taskq_redis.extender import CHUNK, TOKEN, text
from taskq_redis.faults import DRIVER_ERRORS
from taskq_redis.lane import Sent
from taskq_redis.listener import Listener
from taskq_redis.rows import ROW, Decoders, delivery_of, microseconds
from taskq_redis.setback import KEPT, Look, Setbacks
from taskq_redis.tools import Tools
from taskq_redis.waiting import DEAF, Waiting, Wish
from taskq_redis.wire import Argument, Reply

_HANDED = Struct(">QI")
"""What stands before id, row and call of a job in a message: the server's clock, and the length of the id."""

GiveBack = Callable[[Sequence[str]], Awaitable[None]]
"""Ends the leases of these receipts as if they had never begun."""


class Ask:
    """One call for what some partitions of one server have."""

    __slots__ = ("arguments", "keys", "known", "named", "sent")

    def __init__(self, named: Sequence[str], keys: Sequence[bytes], arguments: Sequence[Argument], known: Look) -> None:
        self.named = named
        self.keys = keys
        self.arguments = arguments
        self.known = known
        self.sent: Sent | None = None
        """On its way, before anybody waits for the answer."""


class Fetching:
    """The fetches of one broker."""

    def __init__(self, tools: Tools, listener: Listener, give_back: GiveBack) -> None:
        self._tools = tools
        self._give_back = give_back
        self._decode = Decoders()
        self._listener = listener
        # A cluster does not know who hears, and a queue in parts is several.
        self._may_hand = not tools.clustered and tools.keys.count == 1
        self._waiting = Waiting(listener, self._leave, lambda queues: len(self._calls(queues)))
        self._setbacks = Setbacks(tools.client.name)
        self._absences = Absences(tools.client.name)
        self._abandoned: set[asyncio.Task[None]] = set()

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """What the broker's verb promises."""
        if limit <= 0 or not queues:
            return []
        if wait <= 0:
            if self._may_hand:
                await self._waiting.recall(queues)
            return await self._claim(queues, limit, lease, None, None)
        loop = asyncio.get_running_loop()
        until, roused, ask = loop.time() + wait, self._waiting.roused, None
        # Of several queues each might hand over a job, more than there is room for.
        wish = self._waiting.begin(queues, microseconds(lease) if self._may_hand and len(queues) == 1 else 0)
        try:
            while not self._waiting.closed and self._waiting.roused == roused:
                if wish.bell.rung or wish.look_at <= loop.time():
                    # Whoever comes after a look that was cut off has to look, too.
                    wish.bell.rung, wish.bell.told, wish.look_at = False, None, -inf
                    asked, ask = ask, None
                    asks = not wish.bell.jobs or (asked is not None and asked.sent is not None)
                    taken = await self._claim(queues, limit, lease, wish, asked) if asks else []
                    taken += self._handed(wish, limit - len(taken))
                    if taken:
                        return taken
                left = until - loop.time()
                if left <= 0:
                    return []
                ask = self._prepared(queues, limit, lease, wish)
                await self._waiting.until_told(wish, left)
        finally:
            wish.bell.told = None
            if ask is not None and ask.sent is not None:
                wish.look_at = -inf
                self._abandon(ask.named, ask.sent.reply)
            self._waiting.end(wish)
        return []

    def rouse(self) -> None:
        """End the fetches that wait."""
        self._waiting.rouse()

    async def close(self) -> None:
        """Take back what waits and what was given to nobody, as far as the servers can be reached."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1.0)
        await self._waiting.close()

    # Steps

    def _prepared(self, queues: Sequence[str], limit: int, lease: float, wish: Wish) -> Ask | None:
        """The next call, which goes out as soon as this fetch is told, if one call is all it takes.

        On the way through a fetch that has slept 50 µs more would pass before it is sent.
        """
        named, *others = self._calls(queues)
        if others:
            return None
        ask = self._ask(named, limit, lease, wish, waits=True)
        key, client = ask.keys[0], self._tools.client
        packed, begin = client.packed(self._tools.scripts.claim, ask.keys, *ask.arguments), client.servers.begin

        def send() -> None:
            ask.sent = begin(key, packed)

        wish.bell.told = send
        return ask

    async def _claim(
        self, queues: Sequence[str], limit: int, lease: float, wish: Wish | None, ask: Ask | None
    ) -> list[Delivery]:
        """What can be leased now: by the call that was prepared, or one for each server's keys."""
        taken: list[Delivery] = []
        calls = self._calls(queues) if ask is None else [ask.named]
        problem: BrokerUnavailable | None = None
        moment, answered = inf, 0
        for named in calls:
            try:
                asked = ask or self._ask(named, limit - len(taken), lease, wish, waits=not taken)
                got, next_moment = await self._answered(asked)
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

    def _ask(self, named: Sequence[str], limit: int, lease: float, wish: Wish | None, *, waits: bool) -> Ask:
        """For what partitions of one server have."""
        patience = wish.patience if wish is not None and waits else 0
        member, waited = (wish.bell.member, int(wish.waits)) if wish is not None else (b"", 0)
        if wish is not None and patience:
            wish.waits = True
        token, known = token_hex(TOKEN // 2), self._setbacks.known(named[0])
        kept, room = microseconds(KEPT), min(limit, CHUNK)
        arguments = (room, microseconds(lease), token, patience, member, waited, kept, known.latest)
        return Ask(named, self._tools.keys.queues(named), arguments, known)

    async def _answered(self, ask: Ask) -> tuple[list[Delivery], float]:
        """What there is, and in how many seconds the next job becomes due."""
        client, script, give_back = self._tools.client, self._tools.scripts.claim, partial(self._abandon, ask.named)
        reply = await client.run(script, ask.keys, *ask.arguments, abandoned=give_back, sent=ask.sent)
        got, moment, looks = self._delivered(ask.named, reply)
        self._setbacks.compare(ask.named[0], ask.known, *looks)
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
        returning = asyncio.get_running_loop().create_task(self._return_answer(partitions, reply))
        self._abandoned.add(returning)
        returning.add_done_callback(self._abandoned.discard)

    async def _return_answer(self, partitions: Sequence[str], reply: asyncio.Future[Reply]) -> None:
        try:
            taken, _, _ = self._delivered(partitions, await reply)
            await self._return(taken)
        except (BrokerError, *DRIVER_ERRORS):
            # Nobody's failure: the leases will end by themselves.
            return

    def _calls(self, queues: Sequence[str]) -> list[list[str]]:
        """The partitions that are looked into, a call for each list."""
        partitions = self._partitions(queues)
        return [[partition] for partition in partitions] if self._tools.clustered else [partitions]

    def _partitions(self, queues: Sequence[str]) -> list[str]:
        """The partitions of queues: those of one queue in any order, so that none of them is always the last."""
        keys = self._tools.keys
        if keys.count == 1:
            return list(queues)
        return [partition for queue in queues for partition in random.sample(keys.partitions(queue), keys.count)]

    def _handed(self, wish: Wish, room: int) -> list[Delivery]:
        """What has come by messages, as far as there is room."""
        jobs = wish.bell.jobs
        taken, jobs[:] = jobs[:room], jobs[room:]
        return [self._read(wish.queues[0], job) for job in taken]

    def _read(self, queue: str, job: bytes) -> Delivery:
        """The job of a message, as ``enqueue_one.lua`` writes it."""
        now, size = _HANDED.unpack_from(job)
        row, call = _HANDED.size + size, _HANDED.size + size + ROW
        name, packed = job[_HANDED.size : row].decode(), self._decode.row(job[row:call])
        return delivery_of(queue, queue, name, packed, self._decode.call.decode(job[call:]), None, now / 1e6)

    async def _leave(self, wish: Wish) -> None:
        leave, keys = self._tools.scripts.leave, self._tools.keys
        try:
            for named in self._calls(wish.queues) if wish.waits else ():
                await self._tools.client.run(leave, keys.queues(named), wish.bell.member)
            if wish.lease:
                await self._listener.caught_up()
            self._listener.remove(wish.bell)
            await self._return(self._handed(wish, len(wish.bell.jobs)))
        except BrokerError:
            # The server stops counting on it by itself, and leases end.
            self._listener.remove(wish.bell)

    async def _return(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await self._give_back([delivery.receipt for delivery in deliveries])


def _number(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise BrokerRejected(f"a script answered {reply!r}")
