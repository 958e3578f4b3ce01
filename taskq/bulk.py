"""Many calls to few round trips, in bounded memory: one answer each, in order."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from taskq.broker import Backend
from taskq.call import Call
from taskq.errors import MissingCapability, TaskqError
from taskq.job import Enqueued, Job

C = TypeVar("C")

PART = 1000
"""Jobs in one call: enough to make the round trip cheap, few enough to bound memory."""

Prepare = Callable[[Call[Any]], Awaitable[Job | TaskqError]]


async def enqueue_in_parts(
    calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], backend: Backend, prepare: Prepare, joined: Any
) -> AsyncIterator[Enqueued]:
    """Enqueue what ``prepare`` lets pass; a call it refuses is answered with its error.

    Calls that name no transaction take part in ``joined``, if that is one.
    """
    size = min(PART, backend.broker.traits.max_batch)
    part: list[tuple[str, Job | TaskqError]] = []
    transaction: Any = joined
    async for call in each(calls):
        prepared = await prepare(call)
        own = joined if call.transaction is None else call.transaction
        if len(part) >= size or own is not transaction:
            for answer in await _enqueue(part, backend, transaction):
                yield answer
            part, transaction = [], own
        part.append((call.job.id, prepared))
    for answer in await _enqueue(part, backend, transaction):
        yield answer


async def _enqueue(
    part: Sequence[tuple[str, Job | TaskqError]], backend: Backend, transaction: Any
) -> Sequence[Enqueued]:
    jobs = [job for _, job in part if isinstance(job, Job)]
    broker = backend.broker
    if transaction is not None:
        if backend.transactions is None:
            raise MissingCapability("tx=: this broker takes part in no transactions")
        broker = backend.transactions.join(transaction)
    answers = iter(await broker.enqueue(jobs) if jobs else ())
    return [
        next(answers) if isinstance(prepared, Job) else Enqueued(name, added=False, error=prepared)
        for name, prepared in part
    ]


async def each(calls: Iterable[C] | AsyncIterable[C]) -> AsyncIterator[C]:
    """The elements of either kind of iterable, one at a time."""
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            yield call
    else:
        for call in calls:
            yield call
