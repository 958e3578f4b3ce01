"""Many calls to few round trips, in bounded memory: one answer each, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from taskq.broker import Backend
from taskq.call import Call, batched
from taskq.errors import MissingCapability
from taskq.job import Enqueued, Job

PART = 1000
"""Jobs in one call: enough to make the round trip cheap, few enough to bound memory."""

_LEAST = 250
"""Jobs that go as soon as no call is under way: enough for the server to work on while the next ones are prepared."""

_TURN = 25
"""Calls that are prepared at a time; then others have a turn, the part that is under way among them."""

Prepared = Job | Enqueued
"""A job for the broker, or why there is none."""

Prepare = Callable[[Sequence[Call[Any]]], Awaitable[Sequence[Prepared]]]


async def enqueue_in_parts(
    calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], backend: Backend, prepare: Prepare, joined: Any
) -> AsyncIterator[Sequence[Enqueued]]:
    """Enqueue what ``prepare`` lets pass, and answer by parts, in order.

    Calls that name no transaction take part in ``joined``, if that is one. Outside of transactions one part is under
    way while the next one is prepared, and another one behind it where that comes no sooner; so a part goes when it is
    full, and sooner when fewer are under way.
    """
    traits = backend.broker.traits
    size = min(PART, traits.max_batch)
    least = min(_LEAST, size)
    part: list[Prepared] = []
    transaction: Any = joined
    under_way: deque[asyncio.Task[Sequence[Enqueued]]] = deque()
    try:
        async for named, some in _turns(calls, min(_TURN, size)):
            prepared = await prepare(some)
            own = joined if named is None else named
            most = 2 if traits.pipelined and transaction is None else 1
            idle = transaction is None and sum(not task.done() for task in under_way) < most
            if own is not transaction or len(part) + len(some) > size or (idle and len(part) >= least):
                while len(under_way) >= most:
                    yield await under_way[0]
                    under_way.popleft()
                under_way.append(asyncio.create_task(_enqueue(part, backend, transaction)))
                if transaction is not None:
                    # Whoever makes the calls may need its connection meanwhile.
                    await asyncio.wait(under_way)
                part, transaction = [], own
            part += prepared
            await asyncio.sleep(0)
        while under_way and not traits.pipelined:
            yield await under_way[0]
            under_way.popleft()
        under_way.append(asyncio.create_task(_enqueue(part, backend, transaction)))
        while under_way:
            yield await under_way[0]
            under_way.popleft()
    finally:
        await _end(under_way)


async def _turns(
    calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], size: int
) -> AsyncIterator[tuple[Any, Sequence[Call[Any]]]]:
    """Up to ``size`` calls at a time, with the transaction that all of them name."""
    async for some in batched(calls, size):
        for transaction, alike in groupby(some, attrgetter("transaction")):
            yield transaction, [*alike]


async def _end(under_way: "Collection[asyncio.Task[Sequence[Enqueued]]]") -> None:
    """Nobody waits for their answers any more, not even for an error."""
    for task in under_way:
        task.cancel()
    if under_way:
        await asyncio.wait(under_way)
    for task in under_way:
        if not task.cancelled():
            task.exception()


async def _enqueue(part: Sequence[Prepared], backend: Backend, transaction: Any) -> Sequence[Enqueued]:
    jobs = [job for job in part if isinstance(job, Job)]
    broker = backend.broker
    if transaction is not None:
        if backend.transactions is None:
            raise MissingCapability("tx=: this broker takes part in no transactions")
        broker = backend.transactions.join(transaction)
    answers = iter(await broker.enqueue(jobs) if jobs else ())
    return [next(answers) if isinstance(prepared, Job) else prepared for prepared in part]
