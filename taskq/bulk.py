"""Many calls to few round trips, in bounded memory: one answer each, in order."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from taskq.broker import Backend
from taskq.call import Call
from taskq.errors import MissingCapability, TaskqError
from taskq.job import Enqueued, Job

PART = 1000
"""Jobs in one call: enough to make the round trip cheap, few enough to bound memory."""

Prepare = Callable[[Call[Any]], Awaitable[Job | TaskqError]]


async def enqueue_in_parts(
    calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], backend: Backend, prepare: Prepare
) -> AsyncIterator[Enqueued]:
    """Enqueue what ``prepare`` lets pass; a call it refuses is answered with its error."""
    size = min(PART, backend.broker.traits.max_batch)
    part: list[tuple[Call[Any], Job | TaskqError]] = []
    async for call in _each(calls):
        prepared = await prepare(call)
        if part and part[0][0].transaction is not call.transaction:
            for answer in await _enqueue(part, backend):
                yield answer
            part = []
        part.append((call, prepared))
        if len(part) >= size:
            for answer in await _enqueue(part, backend):
                yield answer
            part = []
    for answer in await _enqueue(part, backend):
        yield answer


async def _enqueue(part: Sequence[tuple[Call[Any], Job | TaskqError]], backend: Backend) -> Sequence[Enqueued]:
    jobs = [job for _, job in part if isinstance(job, Job)]
    broker = backend.broker
    if part and part[0][0].transaction is not None:
        if backend.transactions is None:
            raise MissingCapability("tx=: this broker takes part in no transactions")
        broker = backend.transactions.join(part[0][0].transaction)
    answers = iter(await broker.enqueue(jobs) if jobs else ())
    return [
        next(answers) if isinstance(prepared, Job) else Enqueued(call.job.id, added=False, error=prepared)
        for call, prepared in part
    ]


async def _each(calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]]) -> AsyncIterator[Call[Any]]:
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            yield call
    else:
        for call in calls:
            yield call
