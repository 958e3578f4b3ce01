"""What a handler may ask about the job it is running."""

import asyncio
import inspect
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from msgspec import Struct

from taskq.errors import ConfigError, HandedBack, MissingCapability, Snooze
from taskq.job import Delivery, Job
from taskq.ledger.iteration import Iteration, Pace, Source
from taskq.ledger.notes import Notes, Progress
from taskq.ledger.once import KEPT, Effect, Once, OnUnknown
from taskq.ledger.values import remembered, returned_type
from taskq.means import Means
from taskq.ownbatch import OwnBatch
from taskq.sequel import FLOW, plan_of
from taskq.signs import Signs
from taskq.store import Store
from taskq.tags import tags_of

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

_log = logging.getLogger("taskq.job")

_OUTSIDE = "taskq.outside"
"""Under which it is noted since when a job waits for somebody."""

running: ContextVar["Current"] = ContextVar("taskq.running")


class Current(Struct, eq=False):
    """The running job. One of these lives for one run."""

    delivery: Delivery
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    """Positional and keyword arguments, decoded; a middleware may replace them."""
    _means: Means = Means()
    """What the run may use besides."""
    notes: Notes | None = None
    """What the job remembers, once the run has looked or written; :meth:`step` and the like are made of it."""
    used_batch: OwnBatch | None = None
    """Its :attr:`batch`, if that was asked for."""
    deadline: float | None = None
    """When the run will be cancelled, by the event loop's clock; None: never."""
    connection: Any = None
    """The transaction's connection, in a task with ``transaction=True`` and inside :meth:`transaction`."""
    _stop: str = ""
    """Why the run was first asked to stop."""
    heard_at: float = 0.0
    """When the run last gave a sign of life, by the event loop's clock; inf while it waits for a place."""
    signs: Signs | None = None
    """Where worker and run tell each other of stopping and of life, when the run is in a process of its own."""
    thread: int | None = None
    """The thread that its function runs in, if it is not the worker's."""
    _granted: Sequence[object] | None = ()
    """The limits of the task that let it begin; None in a process of its own that they cannot be handed to."""
    peak: int = 0
    """Bytes of memory that its own process held at most, once it has ended; 0 of one without."""
    grown: int = 0
    """Bytes by which the worker's highest memory rose while it ran in a thread, whatever else ran meanwhile."""

    def __repr__(self) -> str:
        return f"<the run of job {self.id}>"

    @property
    def stopping(self) -> bool:
        """True once the run has been asked to stop: its soft time-out, another time-out, cancellation, or a worker that
        drains. Code in threads, which nothing can interrupt, should look at it now and then."""
        return bool(self._stop) or (self.signs is not None and self.signs.stopping)

    def stop(self, reason: str) -> None:
        """Ask the run to stop; the first reason counts. For workers."""
        self._stop = self._stop or reason
        if self.signs is not None:
            self.signs.stop()

    @property
    def heard(self) -> float:
        """When the run last gave a sign of life, wherever it is, by the event loop's clock."""
        if self.signs is None or self._means.loop is None:
            return self.heard_at
        return self._means.loop.time() - self.signs.silence

    @property
    def job(self) -> Job:
        """The job as it was enqueued."""
        return self.delivery.job

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt."""
        return self.delivery.job.id

    @property
    def idempotency_key(self) -> str:
        """A key for effects outside: the same in every attempt of this job, and in no other job."""
        return self.delivery.job.id

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.delivery.job.task

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.delivery.job.queue

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller sent beside the arguments."""
        return self.delivery.job.headers

    @property
    def tags(self) -> Sequence[str]:
        """Those of the task and of the call."""
        return tags_of(self.delivery.job)

    @property
    def tick(self) -> datetime | None:
        """The moment at which the job's schedule was due, in UTC; None for a job that no tick brought about."""
        text = self.delivery.job.headers.get("taskq-tick")
        return None if text is None else datetime.fromisoformat(text)

    @property
    def attempt(self) -> int:
        """1 in the first attempt; losses and snoozes do not count."""
        return self.delivery.attempt

    @property
    def losses(self) -> int:
        """How many workers died under this job, or were cut off."""
        return self.delivery.losses

    @property
    def fence(self) -> int:
        """Rises with every delivery of this job: ``UPDATE … WHERE fence < ?`` lets a stale run write nothing."""
        return self.delivery.fence

    @property
    def granted(self) -> Sequence[object]:
        """The limits of the task that were asked and let this run begin: of ``a | b`` the one that had room.
        ``key_a in current().granted`` tells which it was."""
        if self._granted is None:
            raise ConfigError(
                "a limit whose key is a function is not known in a process of its own: give names of arguments as its "
                "key, or use executor='thread'"
            )
        return self._granted

    def admit(self, granted: Sequence[object] | None) -> None:
        """Say which limits let the run begin; None: they are not known here. For workers."""
        self._granted = granted

    @property
    def batch(self) -> OwnBatch | None:
        """The batch that the job is a member of, to add others to it; None when it is in none."""
        self._means.refuse_apart("the job's batch")
        if self.used_batch is None and FLOW in self.delivery.job.headers:
            plan = plan_of(self.delivery.job)
            if plan is not None and plan.place is not None:
                self.used_batch = OwnBatch(plan, plan.place, self._means.prepare)
        return self.used_batch

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that knows the job."""
        job = self.delivery.job
        return logging.LoggerAdapter(
            _log, {"job": job.id, "task": job.task, "queue": job.queue, "attempt": self.delivery.attempt}
        )

    # Long jobs

    @overload
    def iterate(
        self,
        source: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], object] | None = None,
        every: int | None = None,
        name: str = "items",
    ) -> AsyncIterator[T]: ...
    @overload
    def iterate(
        self,
        source: Callable[[C | None], Iterable[T] | AsyncIterable[T]],
        *,
        key: Callable[[T], C],
        every: int | None = None,
        name: str = "items",
    ) -> AsyncIterator[T]: ...
    def iterate(
        self,
        source: Source[Any],
        *,
        key: Callable[[Any], Any] | None = None,
        every: int | None = None,
        name: str = "items",
    ) -> AsyncIterator[Any]:
        """Go through the items, in the next run behind the last one that was done.

        ``source`` holds the same items in the same order each time, and those that were done are skipped; with a
        ``key`` the last one of them is looked at, and a source that has changed is refused. A source too large to be
        skipped through is a function of the cursor, the ``key`` of the last item done (None at first); what it says of
        its parameter's type is the cursor's.

        An item is done when the next one is asked for. That is written down every five seconds and when the run ends;
        after a kill, what was done since is done again. ``every=1`` writes before each next item. A worker that shuts
        down hands the job back between two items, uncounted, and the log warns of an item that takes longer than the
        grace. Two iterations of one job need names.
        """
        return self._iteration(name, key, every).items(source)

    @overload
    async def each(
        self,
        source: Iterable[T] | AsyncIterable[T],
        handle: Callable[[T], Awaitable[object]],
        *,
        window: int,
        key: Callable[[T], object] | None = None,
        every: int | None = None,
        name: str = "items",
    ) -> None: ...
    @overload
    async def each(
        self,
        source: Callable[[C | None], Iterable[T] | AsyncIterable[T]],
        handle: Callable[[T], Awaitable[object]],
        *,
        window: int,
        key: Callable[[T], C],
        every: int | None = None,
        name: str = "items",
    ) -> None: ...
    async def each(
        self,
        source: Source[Any],
        handle: Callable[[Any], Awaitable[object]],
        *,
        window: int,
        key: Callable[[Any], Any] | None = None,
        every: int | None = None,
        name: str = "items",
    ) -> None:
        """As :meth:`iterate`, with up to ``window`` items at once: ``await current().each(users, index, window=8)``.

        An item is done when ``handle(item)`` has returned, and so have all before it: behind one that is slow at most
        ``window`` are begun, and after a kill those run again, besides what was done since that was written. When one
        raises, no further one is begun, those in progress may end, and the run ends with that error, the first one's in
        their order; a worker that shuts down lets them end, too. A run that is cancelled cancels them.
        """
        if type(window) is not int or window < 1:
            raise ConfigError(f"window={window!r}: give how many items are in progress at once, at least 1")
        await self._iteration(name, key, every).each(source, handle, window)

    def _iteration(self, name: str, key: Callable[[Any], Any] | None, every: int | None) -> Iteration:
        if every is not None and every < 1:
            raise ConfigError(f"every={every!r}: give a whole number of items of at least 1, or None")
        pace = Pace(every, self._means.grace, self.logger, self._is_to_leave, self._pause)
        return Iteration(self._notes(), self._means.codec, name, key, pace)

    async def outside(self, timeout: float | timedelta) -> NoReturn:
        """Wait for somebody outside, who ends the job with ``handle.complete(value)``: put off, it holds nothing.

        Raises TimeoutError when nobody has for so many seconds since its first run came here.
        """
        notes = self._notes()
        since = await notes.mark(_OUTSIDE, float)
        if since is None:
            since = self.delivery.now
            await notes.set_mark(_OUTSIDE, self._means.codec.encode(since))
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        left = since + seconds - self.delivery.now
        if left <= 0:
            raise TimeoutError(f"nobody has completed job {self.id} within {seconds:g} s")
        raise Snooze(left, "it waits for somebody outside")

    async def step(self, name: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``await function(*args)`` returned, in this run or an earlier one of this job: it is called once.

        The result is remembered as the function's annotation says it is, until the job has ended. A worker that dies
        after the call and before that was written calls again in its next run, as when the function raises.
        """
        notes = self._notes()
        notes.reserve(f"step {name}")
        returns = returned_type(function)
        found, result = await notes.result(name, returns)
        if found:
            known: T = result
            return known
        call = function(*args, **kwargs)
        if not inspect.isawaitable(call):
            raise ConfigError(f"step {name!r}: give a coroutine function; wrap a sync one in anyio.to_thread.run_sync")
        value = await call
        await notes.keep_result(name, value, returns)
        return value

    async def checkpoint(self, value: object, *, name: str = "checkpoint") -> None:
        """Remember how far this job is, for :meth:`restore` in its next run. Costs nothing by itself.

        Written every five seconds and when the run ends. A good place to stop: a worker that shuts down hands the job
        back here, uncounted.
        """
        data = remembered(self._means.codec, value, type(value), f"checkpoint {name!r}")
        await self._notes().set_mark(f"checkpoint {name}", data)
        await self._pause()

    async def restore(self, type: type[T], *, name: str = "checkpoint") -> T | None:
        """The last checkpoint of this job, None when there is none."""
        return await self._notes().mark(f"checkpoint {name}", type)

    def heartbeat(self) -> None:
        """Say that the run is alive, for ``idle_timeout``; in any thread, and in a process of its own. What notes how
        far the job is (a step, a checkpoint, an item, progress) says so, too."""
        if self.signs is not None:
            self.signs.beat()
        elif self._means.loop is not None:
            self.heard_at = self._means.loop.time()

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far this job is, to whoever asks its handle or ``taskq job``. Written every five seconds."""
        self._notes().set_progress(Progress(done, total))

    # Once in effect

    def once(
        self, key: str, *, on_unknown: OnUnknown, keep: float | timedelta = KEPT
    ) -> AbstractAsyncContextManager[Once]:
        """``async with current().once(f"charge:{invoice}", on_unknown=…) as effect: if effect.needed: …``

        The key is of this whole namespace: whichever job comes first does it. It is *started* when the block is entered
        and *done* when it is left without a raise, and remembered for ``keep`` seconds (30 days). When another job is
        inside now, this one is put back for two seconds, uncounted.

        ``on_unknown`` says what to do when a run started the effect and did not live to say that it is done:
        ``"retry"`` does it again, for an effect that knows its own key; ``"raise"`` raises EffectUnknown; a function
        finds out, and answers whether it has happened.
        """
        seconds = keep.total_seconds() if isinstance(keep, timedelta) else keep
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"keep={keep!r}: give the seconds for which the effect is to be remembered")
        if on_unknown not in ("retry", "raise") and not callable(on_unknown):
            raise ConfigError(
                f'on_unknown={on_unknown!r}: choose "retry" or "raise", or give a function that finds out'
            )
        return Effect(self._store("once()"), self.delivery, key, seconds).once(on_unknown)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """A connection in a transaction of the queue's own database: what is written and deferred inside commits
        together. Inside another one, and in a task with ``transaction=True``, it is that one.

        Raises MissingCapability where the broker is no database.
        """
        self._means.refuse_apart("a transaction")
        if self.connection is not None:
            yield self.connection
            return
        if self._means.transactions is None:
            raise MissingCapability("this broker takes part in no transactions: use PostgreSQL or SQLite")
        async with self._means.transactions.begin() as self.connection:
            try:
                yield self.connection
            finally:
                self.connection = None

    def _store(self, what: str) -> Store:
        return self._means.store_for(what, in_transaction=self.connection is not None)

    def _notes(self) -> Notes:
        store = self._store("what the job has done")
        self.heartbeat()
        if self.notes is None:
            loop = self._means.loop or asyncio.get_running_loop()
            self.notes = Notes(store, self._means.codec, self.delivery, loop)
        return self.notes

    def _is_to_leave(self) -> bool:
        """Whether the run is to go on as another one; to ask is a sign of life."""
        self.heartbeat()
        return self.stopping and self._means.resumes

    async def _pause(self) -> None:
        if self._is_to_leave() and self.notes is not None:
            # So that the next run, which begins at once, knows.
            await self.notes.write()
            raise HandedBack(0.0, self._stop)


def current() -> Current:
    """The running job; raises RuntimeError outside of one."""
    try:
        return running.get()
    except LookupError:
        raise RuntimeError("current() is known only inside a running job") from None
