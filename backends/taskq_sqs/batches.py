"""Tens of entries to a call: what gathers while the last call is under way goes with the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from taskq_sqs.client import TRIES, back_off
from taskq_sqs.faults import said

LIMIT = 10
"""Entries of a call, by SQS."""
_CALLS = 16
"""Under way at once for one queue: enough for a round trip of 20 ms and 8,000 jobs a second."""


class Fields(Struct, omit_defaults=True):
    """What an entry says; its number in the call is filled in when it goes."""

    Id: str = ""
    ReceiptHandle: str = ""
    VisibilityTimeout: int | None = None
    MessageBody: str = ""
    DelaySeconds: int = 0
    MessageGroupId: str = ""
    MessageDeduplicationId: str = ""


class Failure(Struct):
    """Why one entry failed."""

    Id: str
    Code: str = ""
    Message: str = ""
    SenderFault: bool = False


class Answer(Struct):
    """Of a batch: the entries that are not named failed are done."""

    Failed: list[Failure] = []


class Entry(Struct):
    """One of a batch, and who waits for it."""

    fields: Fields
    size: int
    done: "asyncio.Future[None]"


Send = Callable[[Sequence[Fields]], Awaitable[Answer]]


class Batches:
    """The calls of one kind to one queue.

    A full batch goes at once, a part of one when no call is under way: nothing waits for a timer.
    """

    def __init__(self, action: str, send: Send, largest: int) -> None:
        self._action = action
        self._send = send
        self._largest = largest
        """Bytes of one call."""
        self._pending: deque[Entry] = deque()
        self._bytes = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._due = False

    def add(self, fields: Fields, size: int = 0) -> "asyncio.Future[None]":
        """Done when the service has said so; raises the service's own error of this entry, or BrokerError for all."""
        loop = asyncio.get_running_loop()
        entry = Entry(fields, size, loop.create_future())
        self._pending.append(entry)
        self._bytes += size
        if not self._due:
            # Not now: what others add in this turn goes with it.
            self._due = True
            loop.call_soon(self._go)
        return entry.done

    def _go(self) -> None:
        self._due = False
        loop = asyncio.get_running_loop()
        while self._pending and len(self._calls) < _CALLS and (self._full or not self._calls):
            call = loop.create_task(self._call(self._taken()))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    @property
    def _full(self) -> bool:
        return len(self._pending) >= LIMIT or self._bytes >= self._largest

    def _ended(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        self._go()

    def _taken(self) -> list[Entry]:
        taken = [self._pending.popleft()]
        size = taken[0].size
        while self._pending and len(taken) < LIMIT and size + self._pending[0].size <= self._largest:
            taken.append(self._pending.popleft())
            size += taken[-1].size
        self._bytes -= size
        return taken

    async def _call(self, entries: list[Entry]) -> None:
        for turn in range(1, TRIES + 1):
            for at, entry in enumerate(entries):
                entry.fields.Id = str(at)
            try:
                answer = await self._send([entry.fields for entry in entries])
            except BaseException as error:
                _fail(entries, error)
                if not isinstance(error, Exception):
                    raise
                return
            failed = {int(one.Id): one for one in answer.Failed}
            again: list[Entry] = []
            for at, entry in enumerate(entries):
                why = failed.get(at)
                if why is None:
                    _answer(entry)
                elif why.SenderFault or turn == TRIES:
                    status = 400 if why.SenderFault else 500
                    _fail([entry], said(self._action, status, why.Code, why.Message))
                else:
                    again.append(entry)
            if not again:
                return
            entries = again
            await back_off(turn)


def _answer(entry: Entry) -> None:
    if not entry.done.done():
        entry.done.set_result(None)


def _fail(entries: Sequence[Entry], error: BaseException) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            # Whoever waited may have been cancelled.
            entry.done.exception()
