"""The app: its tasks, its broker, and the door to both."""

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from taskq.batcher import Batcher
from taskq.broker import Admin, Backend, Finding, Record
from taskq.bulk import enqueue_in_parts
from taskq.call import Call, Chain, Gather, Takes, each
from taskq.checks import check_call, check_task
from taskq.codec import Codec
from taskq.collect import Collector, Item
from taskq.config import Config, load_config
from taskq.connect import connect
from taskq.context import Current, joined, running
from taskq.debounce import Debounce, in_its_burst
from taskq.depends import Provider, Scoped
from taskq.errors import (
    ConfigError,
    EncodeError,
    InvalidSchedule,
    MissingCapability,
    PartlyEnqueued,
    PayloadTooLarge,
    TaskqError,
    UnknownTask,
    Vetoed,
)
from taskq.events import Events, JobVetoed
from taskq.flow import Batch, BatchReport, FlowHandle
from taskq.flow.start import callbacks, start
from taskq.handle import JobHandle
from taskq.job import Delivery, Enqueued, Job, JobRef
from taskq.ledger.notes import Progress, read_progress
from taskq.limits.holding import Holding
from taskq.limits.outside import holding
from taskq.middleware import DeferMiddleware, Middleware, carry, pass_through
from taskq.options import CallOptions, check_queue
from taskq.outbox import Relay, open_outbox
from taskq.portal import Portal, refuse_inside_a_loop
from taskq.report import Death, Redact
from taskq.schedule import make_schedule
from taskq.schedules import Schedules, check_schedule, configured, lacking
from taskq.spool import Bounds, spooling
from taskq.store import Store
from taskq.task import Definition, Task
from taskq.tasks import Scheduled, Tasks
from taskq.worker.control import CANCEL, pause, resume
from taskq.worker.presence import present
from taskq.worker.recipe import Recipe
from taskq.worker.runner import Runnable
from taskq.worker.worker import Worker, WorkerOptions

R = TypeVar("R")

Lifespan = Callable[["App"], AbstractAsyncContextManager[Any]]


class Live(Struct, frozen=True):
    """What is open in one event loop."""

    backend: Backend
    sending: Backend
    """The same for callers who defer, with the spool and the outbox, if there are any."""
    relay: Relay | None
    batcher: Batcher
    collector: Collector | None
    scope: Scoped
    loop: asyncio.AbstractEventLoop


class App:
    """Tasks and the broker that carries their jobs.

    ``url`` and the other settings come from, first found: these arguments, ``TASKQ_…`` in the environment,
    ``taskq.toml``, ``[tool.taskq]`` in ``pyproject.toml``, the defaults. Nothing is opened before ``async with app``.
    ``on_dead`` names the task told of every dead letter whose own task names none; ``redact`` takes out of error
    messages and tracebacks what must not be stored.
    Raises ConfigError for settings that make no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        codec: Codec | None = None,
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
        defer_middleware: Sequence[DeferMiddleware] = (),
        context: Sequence[ContextVar[str]] = (),
        on_dead: str | None = None,
        redact: Redact | None = None,
        **settings: Any,
    ) -> None:
        given = settings if url is None else {"url": url, **settings}
        self._given = given
        self.config: Config = load_config(given, os.environ, Path.cwd())
        self.settings = self.config.settings
        self.events = Events()
        """``app.events.subscribe(JobFinished, print)``"""
        self.registry = Tasks(self._join, self._schedule)
        self.task = self.registry.task
        """``@app.task`` or ``@app.task(queue="mail", retry=Retry(5), timeout=30)``"""
        self.schedules = Schedules(self)
        """``await app.schedules.create("berlin", report.call("berlin"), "0 3 * * *")``"""
        self.schedule = self.registry.schedule
        """``@app.schedule("*/5 * * * *", tz="Europe/Berlin")`` above ``@app.task``"""
        self._configured = configured(self.settings.schedules)
        self.codec = codec or Codec()
        self.overrides: dict[Provider, Provider] = {}
        """Providers to use in place of others, for tests: ``app.overrides[get_pool] = lambda: fake``"""
        self._lifespan = lifespan
        pack, unpack = carry(context)
        layers = [*([unpack] if context else []), *middleware]
        self._recipe = Recipe(self.registry.tasks, self.settings, self.codec, layers, on_dead, redact, self.prepare)
        self._defer_middleware = [*([pack] if context else []), *defer_middleware]
        self._lives: dict[asyncio.AbstractEventLoop, Live] = {}
        self._contexts: dict[asyncio.AbstractEventLoop, AbstractAsyncContextManager[Live]] = {}
        self._portal = Portal(self._opened)

    def wrap(self, run: Middleware, defer: DeferMiddleware) -> None:
        """Put a layer around everything that wraps handlers and defers already; raises ConfigError once it is open."""
        if self._lives:
            raise ConfigError("wrap the app before it is opened: layers are put around tasks when a worker starts")
        self._recipe = replace(self._recipe, middleware=[run, *self._recipe.middleware])
        self._defer_middleware = [defer, *self._defer_middleware]

    # Tasks

    def include(self, tasks: Tasks) -> None:
        """Take in the tasks and schedules of a collection; raises DuplicateTask when a name is taken."""
        for task in tasks.tasks.values():
            self.registry.add(task)
        for scheduled in tasks.scheduled.values():
            self.registry.add_schedule(scheduled)

    def find_task(self, name: str) -> Task[..., Any]:
        """The task of this name; raises UnknownTask."""
        try:
            return self.registry.tasks[name]
        except KeyError:
            known = ", ".join(sorted(self.registry.tasks)) or "none"
            raise UnknownTask(f"no task is named {name!r} (known: {known})") from None

    def check(self) -> Sequence[Finding]:
        """What an operator should know of the tasks before they run; the errors in it keep the app from opening."""
        return self.check_on(next((live.backend for live in self._lives.values()), None), strict=self.settings.strict)

    def check_on(self, backend: Backend | None, *, strict: bool) -> Sequence[Finding]:
        """The same for another backend, or for none. Raises InvalidSchedule for a schedule that cannot be one."""
        self._schedule_configured()
        found = [each for task in self.registry.tasks.values() for each in self._check(task, backend, strict=strict)]
        if backend is None:
            return found
        return found + [
            Finding(f"schedule {schedule.name}", "error", problem)
            for schedule in self.schedules.static.values()
            for problem in lacking(schedule, backend)
        ]

    def check_call(self, definition: Definition, options: CallOptions) -> None:
        """Raises MissingCapability for options that the open broker does not promise."""
        for live in self._lives.values():
            check_call(definition, options, live.sending)

    def _check(self, task: Task[..., Any], backend: Backend | None, *, strict: bool) -> Sequence[Finding]:
        return check_task(task.definition, task.defaults, backend, strict=strict)

    def _join(self, task: Task[..., Any]) -> None:
        task.join(self, self.codec, self.settings.keep)

    def _schedule(self, scheduled: Scheduled) -> None:
        try:
            job = scheduled.task.call(**scheduled.args).job
        except EncodeError as error:
            raise InvalidSchedule(f"schedule {scheduled.name}: its args do not fit: {error}") from error
        self.schedules.take(make_schedule(scheduled.name, scheduled.timetable, job))

    def _schedule_configured(self) -> None:
        """Now that all tasks are known."""
        while self._configured:
            name, task, timetable, args = self._configured[-1]
            self.registry.add_schedule(Scheduled(name, self.find_task(task), timetable, args))
            self._configured.pop()

    # Opening and closing

    async def __aenter__(self) -> Self:
        """Open the broker and the lifespan in this event loop.

        Raises MissingCapability when a task needs what the broker does not promise, BrokerError when it cannot be
        opened.
        """
        loop = asyncio.get_running_loop()
        if loop in self._contexts:
            raise ConfigError("this app is open already in this event loop: open it once, where the program begins")
        self._contexts[loop] = context = self._opened()
        try:
            await context.__aenter__()
        except BaseException:
            del self._contexts[loop]
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._contexts.pop(asyncio.get_running_loop()).__aexit__(*error)

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Live]:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(connect(self.settings.url))
            for task in self.registry.tasks.values():
                self._recipe.follow_up(task.definition)
                for finding in self._check(task, backend, strict=self.settings.strict):
                    if finding.level == "error":
                        raise MissingCapability(f"task {finding.subject}: {finding.message}")
            self._schedule_configured()
            for schedule in self.schedules.static.values():
                check_schedule(schedule, backend)
            sending, relay = await self._sending(backend, stack)
            batcher = Batcher(sending.broker)
            collector = None if backend.store is None else Collector(backend.store, self.enqueue)
            # Not a task group: it would wrap whatever the body of `async with app` raises into a group.
            flusher = loop.create_task(batcher.run())
            stack.push_async_callback(_end, flusher)
            scope = await stack.enter_async_context(Scoped("app", None, self.overrides))
            self._lives[loop] = live = Live(backend, sending, relay, batcher, collector, scope, loop)
            stack.callback(self._lives.pop, loop)
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            yield live

    async def _sending(self, backend: Backend, stack: AsyncExitStack) -> tuple[Backend, Relay | None]:
        """The backend as callers who defer see it."""
        settings, relay, sending = self.settings, None, backend
        if settings.spool is not None:
            bounds = Bounds(settings.spool_size, settings.spool_age)
            spool = await stack.enter_async_context(spooling(backend.broker, settings.spool, bounds))
            sending = replace(sending, broker=spool)
        if settings.outbox is not None:
            for task in self.registry.tasks.values():
                if task.definition.transaction:
                    raise ConfigError(
                        f"task {task.name}: transaction=True commits in the broker's database, and this app defers in "
                        "those of its outbox: drop one of them"
                    )
            transactions, relay = await stack.enter_async_context(open_outbox(settings.outbox, backend))
            sending = replace(sending, transactions=transactions)
        return sending, relay

    @property
    def _live(self) -> Live:
        try:
            return self._lives[asyncio.get_running_loop()]
        except KeyError:
            raise ConfigError("the app is not open in this event loop: write `async with app:` around this") from None

    @property
    def backend(self) -> Backend:
        """The open backend; raises ConfigError before the app is open."""
        return self._live.backend

    # Deferring

    async def enqueue(self, job: Job, tx: Any = None) -> Enqueued:
        """Enqueue a job as ``defer`` does, through the middleware; raises what ``defer`` raises."""
        return await self.send(await self.prepare(job), tx)

    async def prepare(self, job: Job) -> Job:
        """The job as the defer middleware leaves it; raises Vetoed and PayloadTooLarge."""
        if self._defer_middleware:
            job = await self._pass(job)
        _refuse_oversize(job, self._live.backend)
        return job

    async def send(self, job: Job, tx: Any) -> Enqueued:
        """Enqueue a prepared job, in this transaction or that of the running handler; raises what refuses it."""
        live = self._live
        if tx is None:
            tx = self._open_transaction()
        if tx is None:
            answer = await live.batcher.enqueue(job)
        elif live.sending.transactions is None:
            raise MissingCapability(f"task {job.task}: this broker takes part in no transactions")
        else:
            (answer,) = await live.sending.transactions.join(tx).enqueue([job])
        if answer.error is not None:
            raise answer.error
        return answer

    @contextmanager
    def transaction(self, connection: Any) -> Generator[None]:
        """Inside, every defer takes part in the caller's open transaction, as with ``options(tx=connection)``."""
        token = joined.set({**joined.get({}), self: connection})
        try:
            yield
        finally:
            joined.reset(token)

    async def defer(self, flow: Call[R] | Chain[R] | Gather[R]) -> FlowHandle[R]:
        """Defer a chain or a gather: ``await app.defer(a.call(1).then(b))``.

        What it begins with is enqueued now, the rest by the workers under fixed ids. Raises what ``defer`` of a task
        raises, ConfigError for a gather of what cannot be in one, MissingCapability where the broker has no store.
        """
        return await start(self, flow)

    def batch(
        self,
        id: str,
        *,
        then: Call[Any] | Chain[Any] | Takes[BatchReport, Any] | None = None,
        finished: Call[Any] | Chain[Any] | Takes[BatchReport, Any] | None = None,
        first_failure: Call[Any] | Chain[Any] | Takes[Death, Any] | None = None,
        parent: str | None = None,
    ) -> Batch:
        """A batch of this id: to be made with ``async with``, or to be asked after.

        ``then`` is enqueued when all members have returned, ``finished`` when all have ended, ``first_failure`` at the
        first that ended in another way. With ``parent`` it is a member of that batch. Raises ConfigError.
        """
        return Batch(self, id, callbacks(id, then, finished, first_failure), parent)

    async def in_its_burst(self, job: Job, debounce: Debounce) -> Job:
        """The job as a debounced call enqueues it."""
        return await in_its_burst(job, debounce, self.store)

    async def collect(self, item: Item) -> Enqueued:
        """Collect an item, as ``defer`` of a task with ``collect=`` does; raises what that raises."""
        if self._live.collector is None:
            raise MissingCapability(f"task {item.window.task}: what it collects needs a store")
        if self._open_transaction() is not None:
            raise ConfigError(f"task {item.window.task}: what is collected takes part in no transaction")
        return await self._live.collector.add(item)

    async def defer_each(self, calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]]) -> AsyncIterator[Enqueued]:
        """Defer any number of calls in bounded memory: one answer each, in order, with the error of a refused one.

        Raises BrokerUnavailable when the broker goes away; what was answered until then is enqueued.
        """
        live = self._live
        async for answer in enqueue_in_parts(calls, live.sending, self._prepared, self._open_transaction()):
            yield answer

    async def defer_many(self, calls: Iterable[Call[R]] | AsyncIterable[Call[R]]) -> Sequence[JobHandle[R]]:
        """Defer many calls, a thousand to a round trip, and answer their handles.

        Raises PartlyEnqueued, after all the others were enqueued, when some were refused.
        """
        kept: list[Call[R]] = []
        answers = [answer async for answer in self.defer_each(_remember(calls, kept))]
        errors = {index: answer.error for index, answer in enumerate(answers) if answer.error is not None}
        if errors:
            first = next(iter(errors.values()))
            raise PartlyEnqueued(f"{len(errors)} of {len(answers)} jobs were refused, the first one: {first}", errors)
        return [
            JobHandle(self, JobRef(call.job.queue, answer.id), call.decode, call.keep, added=answer.added)
            for call, answer in zip(kept, answers, strict=True)
        ]

    def _open_transaction(self) -> Any:
        """The connection that this context's defers take part with: the caller's, or that of the running handler."""
        current = running.get(None)
        return joined.get({}).get(self, None if current is None else current.connection)

    async def run_inline(self, job: Job) -> Any:
        """Run a job's handler here, as a worker would run it once, and answer its result."""
        task = self.find_task(job.task)
        delivery = Delivery(job=job, attempt=1, losses=0, fence=1, receipt="", now=0.0, due=0.0)
        async with self.prepared(task) as runnable:
            means = runnable.means(self.backend.store, self.backend.transactions)
            current = Current(delivery, runnable.decode(job.body), means)
            token = running.set(current)
            try:
                value = await runnable.handler(current)
            finally:
                running.reset(token)
                if current.notes is not None:
                    await current.notes.end()
                    await current.notes.forget()
        return task.decode(runnable.encode(value))

    @asynccontextmanager
    async def prepared(self, task: Task[..., Any]) -> AsyncGenerator[Runnable]:
        """A task as a worker of this app runs it, with its dependencies open within the context."""
        async with self._live.scope.inner("worker") as scope:
            yield await self._recipe.runnable(task, self._recipe.executors(), scope)

    async def _pass(self, job: Job) -> Job:
        try:
            return await pass_through(job, self._defer_middleware)
        except Vetoed as veto:
            self.events.emit(JobVetoed(task=job.task, reason=str(veto)))
            raise

    async def _prepared(self, call: Call[Any]) -> Job | TaskqError:
        try:
            return await self.prepare(call.start())
        except (Vetoed, PayloadTooLarge) as error:
            return error

    def limited(self, limit: Holding) -> AbstractAsyncContextManager[None]:
        """Enter a limit outside of a job: ``async with app.limited(smtp.of("example.org")):``."""
        return holding(self.store, self.settings.lease, limit)

    # Looking and operating

    @property
    def admin(self) -> Admin:
        """What an operator may see and do; raises MissingCapability where the broker has no such part."""
        return _part(self.backend.admin, "administration")

    @property
    def store(self) -> Store:
        """The backend's atomic keys; raises MissingCapability where it has none."""
        return _part(self.backend.store, "store")

    async def outcome(self, ref: JobRef, wait: float) -> bytes | None:
        """A job's encoded outcome, waiting up to ``wait`` seconds; None when there is none."""
        return await _part(self.backend.results, "kept results").outcome(ref, wait=wait)

    async def lookup(self, ref: JobRef) -> Record | None:
        """A live job or dead letter."""
        return await self.admin.lookup(ref)

    async def progress(self, ref: JobRef) -> Progress | None:
        """What a live job or dead letter said last of how far it is."""
        return await read_progress(self.store, ref)

    async def cancel(self, ref: JobRef) -> bool:
        """Ask for a job to be cancelled; False when it has ended."""
        (found,) = await self.admin.cancel([ref])
        if found and self.backend.hints is not None:
            await self.backend.hints.publish(CANCEL, ref.id)
        return found

    async def cancel_many(self, refs: Sequence[JobRef]) -> None:
        """Ask for jobs to be cancelled; those that run hear of it when their leases are extended."""
        for first in range(0, len(refs), 1000):
            await self.admin.cancel(refs[first : first + 1000])

    async def pause(self, *queues: str, seconds: float | None = None) -> None:
        """Stop all workers fetching from these queues within a second, for so long or until resumed."""
        await pause(self.store, self.backend.hints, queues, seconds)

    async def resume(self, *queues: str) -> None:
        """Let the workers fetch from these queues again."""
        await resume(self.store, self.backend.hints, queues)

    def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a coroutine function of this app from code without an event loop; raises RuntimeError inside one."""
        refuse_inside_a_loop()
        for live in list(self._lives.values()):
            if live.loop.is_running():
                return asyncio.run_coroutine_threadsafe(function(*args), live.loop).result()
        return self._portal.call(function, *args)

    # Working

    def reread(self) -> None:
        """Read the settings again: they count for what is made from now on. Raises ConfigError, and keeps the old."""
        self.config = load_config(self._given, os.environ, Path.cwd())
        self.settings = self.config.settings
        self._recipe = replace(self._recipe, settings=self.settings)

    def worker_options(self, **options: Any) -> WorkerOptions:
        """How a worker works by the settings, and by what is given here and not None."""
        given = {name: value for name, value in options.items() if value is not None}
        for queue in given.get("queues", ()):
            check_queue(queue)
        return self._recipe.worker_options(given)

    async def make_worker(self, scope: Scoped, **options: Any) -> Worker:
        """A worker on the open broker, its tasks' dependencies provided by ``scope``."""
        runnables = await self._recipe.runnables(scope)
        worker_options = self.worker_options(**options)
        stations: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if worker_options.until == "asked":
            ticker = self._recipe.ticker(self.backend, self.schedules.static, self)
            stations += [ticker.run] if ticker is not None and worker_options.schedules else []
            stations += [relay.run] if (relay := self._live.relay) is not None else []
        return Worker(self.backend, runnables, self.events, worker_options, stations)

    async def relay(self) -> None:
        """Hand over what is committed to the outbox, until cancelled: what every worker does, without a worker.

        Opens the app if it is not open. Raises ConfigError when it has no outbox.
        """
        async with AsyncExitStack() as stack:
            if asyncio.get_running_loop() not in self._lives:
                await stack.enter_async_context(self)
            if self._live.relay is None:
                raise ConfigError("this app has no outbox: name its database by App(outbox=...) or TASKQ_OUTBOX")
            await self._live.relay.run()

    async def run_worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        slots: int | None = None,
        grace: float | None = None,
        until: Literal["asked", "idle", "empty"] = "asked",
        max_jobs: int | None = None,
        started: Callable[[Worker], None] | None = None,
    ) -> None:
        """Work on this app's jobs until drained or cancelled; opens the app if it is not open.

        ``until="idle"`` ends when nothing is due or runs, ``"empty"`` when nothing is scheduled either. ``started``
        gets the worker, to drain it later. Cancelling drains, too, with no grace.
        """
        async with AsyncExitStack() as stack:
            if asyncio.get_running_loop() not in self._lives:
                await stack.enter_async_context(self)
            scope = await stack.enter_async_context(self._live.scope.inner("worker"))
            worker = await self.make_worker(
                scope, queues=queues, slots=slots, grace=grace, until=until, max_jobs=max_jobs
            )
            if started is not None:
                started(worker)
            await self._work(worker)

    async def _work(self, worker: Worker) -> None:
        async with present(worker, self.backend):
            await worker.run()

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncGenerator[Worker]:
        """A worker in this event loop, beside a web app or in a test: drained when the context is left."""
        async with self._live.scope.inner("worker") as scope:
            worker = await self.make_worker(scope, **options)
            # Not a task group: it would wrap whatever the body raises into a group.
            running = asyncio.get_running_loop().create_task(self._work(worker))
            try:
                yield worker
                worker.drain()
            except BaseException:
                running.cancel()
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({running})
            running.result()


def _part(part: R | None, what: str) -> R:
    if part is None:
        raise MissingCapability(f"this broker has no {what}: pair it with a companion store, or choose another broker")
    return part


def _refuse_oversize(job: Job, backend: Backend) -> None:
    limit = backend.broker.traits.max_size
    if len(job.body) > limit:
        raise PayloadTooLarge(
            f"task {job.task}: the call takes {len(job.body):,} bytes, the broker {limit:,}; "
            "store the content elsewhere and pass where it is"
        )


async def _end(flusher: "asyncio.Task[None]") -> None:
    flusher.cancel()
    await asyncio.wait({flusher})


async def _remember(calls: Iterable[R] | AsyncIterable[R], kept: list[R]) -> AsyncIterator[R]:
    async for call in each(calls):
        kept.append(call)
        yield call
