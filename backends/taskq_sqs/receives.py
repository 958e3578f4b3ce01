"""Receiving from one queue: long polls that are never cut off, as many at once as load warrants, and one when idle.

What an abandoned poll had been given nobody would see until its visibility ends, and SQS has no way to take a poll
back. So a poll belongs to its queue and not to the fetch that wanted it: a fetch may go, the next one finds what came,
and what nobody comes for is handed back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any

from taskq.errors import BrokerError
from taskq.job import Delivery
from taskq_sqs.batches import LIMIT

_WIDEST = 16
"""Polls at once."""
_HOLD = 1.0
"""Seconds for which something may lie here that no fetch has come for."""
_AHEAD = 0.25
"""Seconds of work that may be received beyond what was asked for: with quick jobs each call then brings ten."""

PRECEDENCE = 0.1
"""Seconds for which a new poll of an earlier queue or band holds up the later ones: one that has waited for longer
found nothing."""

Receive = Callable[[int, float, float], Coroutine[Any, Any, Sequence[Delivery]]]
"""At most so many, leased for so long, waiting so long."""
HandBack = Callable[[Sequence[Delivery]], Coroutine[Any, Any, None]]


class Receives:
    """One queue's."""

    def __init__(self, receive: Receive, hand_back: HandBack) -> None:
        self._receive = receive
        self._hand_back = hand_back
        self._ready: deque[Delivery] = deque()
        self._lease = 0.0
        """Of what is ready and under way."""
        self._calls: set[asyncio.Task[Any] | None] = set()
        self._returns: set[asyncio.Task[None]] = set()
        self._width = 1
        self._pace = _Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._error: BrokerError | None = None
        self._polled_at = -inf
        self.bells: list[asyncio.Event] = []
        """Of the fetches that wait for something to come from here."""

    @property
    def expected(self) -> bool:
        """Whether what there is would come in this moment: those behind in line wait for that."""
        return bool(self._calls) and asyncio.get_running_loop().time() - self._polled_at < PRECEDENCE

    def take(self, limit: int, lease: float) -> list[Delivery]:
        """What is here for a fetch; raises what the last poll raised."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if lease != self._lease:
            self._return_all()
            return []
        taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._pace.note(len(taken))
        if not self._ready:
            self._disarm()
        return taken

    async def look(self, limit: int, lease: float) -> list[Delivery]:
        """What can be had without waiting."""
        taken = self.take(limit, lease)
        while len(taken) < limit:
            count = min(LIMIT, limit - len(taken))
            call = asyncio.get_running_loop().create_task(self._receive(count, lease, 0.0))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            try:
                came = await asyncio.shield(call)
            except asyncio.CancelledError:
                call.add_done_callback(self._abandoned)
                self._return(taken)
                raise
            taken += came
            if len(came) < count:
                break
        return taken

    def poll(self, limit: int, lease: float, wait: float) -> int:
        """See to it that so many are here or may come; answers how many that is, of a poll only under load."""
        if lease != self._lease and not self._calls:
            self._lease = lease
        if lease != self._lease:
            return 0
        ahead = min(LIMIT, int(self._pace.per_second() * _AHEAD))
        wanted = limit - len(self._ready)
        while len(self._calls) < min(self._width, -(-wanted // LIMIT)):
            count = min(LIMIT, max(wanted - LIMIT * len(self._calls), ahead, 1))
            self._polled_at = asyncio.get_running_loop().time()
            self._calls.add(asyncio.get_running_loop().create_task(self._call(count, lease, wait)))
        return len(self._ready) + (LIMIT * len(self._calls) if self._width > 1 else 0)

    async def settled(self) -> None:
        """Come back when every poll has ended; a caller that is cancelled cancels none."""
        if self._calls:
            await asyncio.wait([call for call in self._calls if call is not None])

    async def close(self) -> None:
        """Hand back what is here, when the polls have ended."""
        await self.settled()
        self._return_all()
        if self._returns:
            await asyncio.wait(self._returns)

    async def _call(self, count: int, lease: float, wait: float) -> None:
        try:
            came = await self._receive(count, lease, wait)
        except BrokerError as error:
            self._error = error
        else:
            full = len(came) >= LIMIT
            self._width = min(_WIDEST, 2 * self._width) if full else max(1, self._width // 2)
            self._ready.extend(came)
        finally:
            # Not by a callback: who is woken now must find it gone.
            self._calls.discard(asyncio.current_task())
            for bell in self.bells:
                bell.set()
        if self._ready and self._timer is None:
            hold = min(_HOLD, lease / 3)
            self._timer = asyncio.get_running_loop().call_later(hold, self._return_all)

    def _return_all(self) -> None:
        self._disarm()
        left, self._ready = list(self._ready), deque()
        self._return(left)

    def _return(self, left: Sequence[Delivery]) -> None:
        if left:
            task = asyncio.get_running_loop().create_task(self._hand_back(left))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    def _abandoned(self, call: asyncio.Task[Sequence[Delivery]]) -> None:
        if not call.cancelled() and call.exception() is None:
            self._return(call.result())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Pace:
    """How many are taken a second, by the last second or two."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since, self._count, self._before = self._loop.time(), 0, 0.0

    def note(self, count: int) -> None:
        """So many were taken."""
        self._turn()
        self._count += count

    def per_second(self) -> float:
        """Of the last whole second, or of this one if it is faster."""
        self._turn()
        return max(self._before, float(self._count))

    def _turn(self) -> None:
        elapsed = self._loop.time() - self._since
        if elapsed >= 1.0:
            self._before = self._count / elapsed
            self._since, self._count = self._loop.time(), 0
