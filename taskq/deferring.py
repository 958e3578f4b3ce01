"""From a call to the broker's answer: middleware, size, transaction, and the round trip."""

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from taskq.broker import Backend
from taskq.bulk import Prepared, enqueue_in_parts
from taskq.call import Call
from taskq.collect import Item
from taskq.context import running
from taskq.errors import BrokerUnavailable, ConfigError, MissingCapability, PartlyEnqueued, PayloadTooLarge, Vetoed
from taskq.events import Events, JobVetoed
from taskq.handle import Desk, JobHandle
from taskq.job import Enqueued, Job, JobRef
from taskq.live import Live, Lives
from taskq.middleware import DeferMiddleware, pass_through
from taskq.outage import Outages
from taskq.spread import Spread, later, offsets_of

R = TypeVar("R")

_joined: ContextVar[Mapping[object, Any]] = ContextVar("taskq.joined")
"""The transactions that the defers of this context take part in: the connection for each app."""


class Deferring:
    """An app's way of handing calls to its broker. A defer passes here once: no layer that it does not need."""

    def __init__(self, lives: Lives, middleware: Sequence[DeferMiddleware], events: Events, outages: Outages) -> None:
        self._lives = lives
        self._middleware = middleware
        self._events = events
        self._outages = outages

    def wrap(self, layer: DeferMiddleware) -> None:
        """Put a layer around everything that wraps defers already."""
        self._middleware = [layer, *self._middleware]

    async def enqueue(self, job: Job, tx: Any = None) -> Enqueued:
        """Enqueue a job as ``defer`` does, through the middleware; raises what ``defer`` raises."""
        return await self.send(await self.prepare(job), tx)

    async def prepare(self, job: Job) -> Job:
        """The job as the defer middleware leaves it; raises Vetoed and PayloadTooLarge."""
        if self._middleware:
            job = await self._pass(job)
        _refuse_oversize(job, self._lives.here().door(job.queue).backend.broker.traits.max_size)
        return job

    async def send(self, job: Job, tx: Any) -> Enqueued:
        """Enqueue a prepared job, in this transaction or that of the running handler; raises what refuses it."""
        live = self._lives.here()
        sending = live.sending
        if tx is None:
            tx, sending = self._open_transaction(live)
        if tx is None:
            try:
                answer = await live.door(job.queue).batcher.enqueue(job)
                if answer.error is not None:
                    raise answer.error
            except BrokerUnavailable as error:
                if not self._outages.drops(job):
                    raise
                return self._outages.drop(job, error)
        elif sending.transactions is None:
            raise MissingCapability(f"task {job.task}: this broker takes part in no transactions")
        else:
            (answer,) = await sending.transactions.join(tx).enqueue([job])
        if answer.error is not None:
            raise answer.error
        return answer

    async def collect(self, item: Item) -> Enqueued:
        """Collect an item, as ``defer`` of a task with ``collect=`` does; raises what that raises."""
        live = self._lives.here()
        collector = live.collector
        if collector is None:
            raise MissingCapability(f"task {item.window.task}: what it collects needs a store")
        self.refuse_transaction(f"task {item.window.task}: what is collected")
        try:
            return await collector.add(item)
        except BrokerUnavailable as error:
            if not self._outages.drops(item.window):
                raise
            return self._outages.drop(item.window, error)

    def refuse_transaction(self, what: str) -> None:
        """Raises ConfigError inside of a transaction, whose end would not be that of what is done here."""
        if self._open_transaction(self._lives.here())[0] is not None:
            raise ConfigError(
                f"{what} takes part in no transaction, and would be there without it: do it after the commit, or defer "
                "a task in the transaction that does it"
            )

    async def each(
        self, calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], spread: Spread | None
    ) -> AsyncIterator[Enqueued]:
        """``app.defer_each``."""
        offsets = offsets_of(spread)

        async def prepare(some: Sequence[Call[Any]]) -> Sequence[Prepared]:
            return await self._prepared(some, offsets)

        transaction, sending = self._route()
        async for answers in enqueue_in_parts(calls, sending, prepare, transaction):
            for answer in answers:
                yield answer

    async def many(
        self, calls: Iterable[Call[R]] | AsyncIterable[Call[R]], spread: Spread | None, desk: Desk
    ) -> Sequence[JobHandle[R]]:
        """``app.defer_many``."""
        kept: list[Call[R]] = []
        offsets = offsets_of(spread)

        async def prepare(some: Sequence[Call[R]]) -> Sequence[Prepared]:
            kept.extend(some)
            return await self._prepared(some, offsets)

        transaction, sending = self._route()
        parts = enqueue_in_parts(calls, sending, prepare, transaction)
        answers = [answer async for part in parts for answer in part]
        errors = {index: answer.error for index, answer in enumerate(answers) if answer.error is not None}
        if errors:
            first = next(iter(errors.values()))
            raise PartlyEnqueued(f"{len(errors)} of {len(answers)} jobs were refused, the first one: {first}", errors)
        return [
            JobHandle(
                desk,
                JobRef(call.job.queue, answer.id),
                call.decode,
                call.keep,
                added=answer.added,
                dropped=answer.dropped,
            )
            for call, answer in zip(kept, answers, strict=True)
        ]

    @contextmanager
    def transaction(self, connection: Any) -> Generator[None]:
        """``app.transaction``."""
        token = _joined.set({**_joined.get({}), self: connection})
        try:
            yield
        finally:
            _joined.reset(token)

    def _open_transaction(self, live: Live) -> tuple[Any, Backend]:
        """The connection that this context's defers take part with, and whose it is: the caller's, of the default
        broker's database, or that of the running handler, of the database its job came from."""
        connection = _joined.get({}).get(self)
        if connection is not None:
            return connection, live.sending
        current = running.get(None)
        if current is None or current.connection is None:
            return None, live.sending
        return current.connection, live.door(current.queue).sending

    def _route(self) -> tuple[Any, Backend]:
        """The same for many jobs."""
        transaction, sending = self._open_transaction(self._lives.here())
        return transaction, sending if transaction is not None else self._outages.around(sending)

    async def _pass(self, job: Job) -> Job:
        try:
            return await pass_through(job, self._middleware)
        except Vetoed as veto:
            self._events.emit(JobVetoed(task=job.task, reason=str(veto)))
            raise

    async def _prepared(self, calls: Sequence[Call[Any]], offsets: Iterator[float]) -> Sequence[Prepared]:
        live = self._lives.here()
        limits: dict[str, int] = {}
        found: list[Prepared] = []
        for call in calls:
            job = later(call.start(), next(offsets))
            try:
                if self._middleware:
                    job = await self._pass(job)
                if job.queue not in limits:
                    limits[job.queue] = live.door(job.queue).backend.broker.traits.max_size
                _refuse_oversize(job, limits[job.queue])
            except (Vetoed, PayloadTooLarge) as error:
                found.append(Enqueued(call.job.id, added=False, error=error))
            else:
                found.append(job)
        return found


def _refuse_oversize(job: Job, limit: int) -> None:
    if len(job.body) > limit:
        raise PayloadTooLarge(
            f"task {job.task}: the call takes {len(job.body):,} bytes, the broker {limit:,}; "
            "store the content elsewhere and pass where it is, or let App(payloads=...) do so"
        )
