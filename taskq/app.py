"""The app: its tasks, its broker, and the door to both."""

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack

from msgspec.structs import replace

from taskq.audit import note
from taskq.broker import Admin, Backend, Finding, Record
from taskq.brokers import Sites
from taskq.call import Call, Chain, Gather, Takes
from taskq.checks import check_call
from taskq.codec import Codec
from taskq.config import Config, load_config
from taskq.debounce import Debounce, in_its_burst
from taskq.defaults import check_followers, inherited
from taskq.deferring import Deferring
from taskq.definition import Definition
from taskq.depends import Provider, Scoped
from taskq.errors import (
    BrokerUnavailable,
    ConfigError,
    EncodeError,
    InvalidSchedule,
    MissingCapability,
    UnknownTask,
)
from taskq.events import Events
from taskq.explain import Explanation, explain
from taskq.flow import Batch, BatchOptions, BatchReport, BatchStatus, FlowHandle, tagged
from taskq.flow.draft import callback, draft
from taskq.flow.given import complete
from taskq.flow.start import start
from taskq.handle import JobHandle
from taskq.job import Enqueued, Job, JobRef
from taskq.ledger.notes import Progress, read_progress
from taskq.limits.holding import Holding
from taskq.limits.outside import holding
from taskq.live import Live, Lives, opened
from taskq.middleware import DeferMiddleware, Middleware, carry
from taskq.notify.notifier import Notifier
from taskq.opening import open_sites
from taskq.options import CallOptions
from taskq.outage import Outages
from taskq.portal import Portal, refuse_inside_a_loop
from taskq.report import Death, Redact
from taskq.schedule import make_schedule
from taskq.schedules import Schedules, configured
from taskq.spool import Spooling
from taskq.spread import Spread
from taskq.store import Store
from taskq.tags import check_tags
from taskq.task import Task
from taskq.tasks import Scheduled, Tasks
from taskq.vetting import findings, refuse
from taskq.worker.control import CANCEL, named, pause, pauses_of, resume
from taskq.worker.options import WorkerOptions
from taskq.worker.recipe import Recipe
from taskq.worker.run import Runnable
from taskq.worker.worker import Worker
from taskq.working import Working

R = TypeVar("R")

Lifespan = Callable[["App"], AbstractAsyncContextManager[Any]]


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
        self._presumed: dict[str, Any] = {}
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
        self.on_dead = on_dead
        self.overrides: dict[Provider, Provider] = {}
        """Providers to use in place of others, for tests: ``app.overrides[get_pool] = lambda: fake``"""
        self._lifespan = lifespan
        pack, unpack = carry(context)
        layers = [*([unpack] if context else []), *middleware]
        self._lives = Lives()
        self._outages = Outages(self.registry.tasks, self.events)
        around = [*([pack] if context else []), *defer_middleware]
        self._deferring = Deferring(self._lives, around, self.events, self._outages)
        # Not methods that call these: every defer would pay for one frame more.
        self.enqueue = self._deferring.enqueue
        """``await app.enqueue(job)``: as ``defer`` does, through the middleware; raises what ``defer`` raises."""
        self.prepare = self._deferring.prepare
        self.send = self._deferring.send
        self.collect = self._deferring.collect
        self.refuse_transaction = self._deferring.refuse_transaction
        recipe = Recipe(self.registry.tasks, self.settings, self.codec, layers, on_dead, redact, self.prepare)
        self._working = Working(recipe, self._lives, self.events, self.schedules.static)
        self._contexts: dict[asyncio.AbstractEventLoop, AbstractAsyncContextManager[Live]] = {}
        self._portal = Portal(self._opened)
        self._notifier = Notifier(self, redact)

    def wrap(self, run: Middleware, defer: DeferMiddleware) -> None:
        """Put a layer around everything that wraps handlers and defers already; raises ConfigError once it is open."""
        if self._lives.by_loop:
            raise ConfigError("wrap the app before it is opened: layers are put around tasks when a worker starts")
        self._working.wrap(run)
        self._deferring.wrap(defer)

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
        return self.check_on(
            next((live.sites for live in self._lives.by_loop.values()), None), strict=self.settings.strict
        )

    def check_on(self, sites: Sites | None, *, strict: bool) -> Sequence[Finding]:
        """The same for other brokers, or for none. Raises InvalidSchedule for a schedule that cannot be one."""
        self._schedule_configured()
        return findings(self._working.recipe, self.schedules.static, sites, strict=strict)

    def check_call(self, definition: Definition, options: CallOptions) -> None:
        """Raises MissingCapability for options that the open broker does not promise."""
        for live in self._lives.by_loop.values():
            check_call(definition, options, live.door(options.queue).sending)

    def _join(self, task: Task[..., Any]) -> None:
        told = inherited(task.queue, self.settings.defaults)
        task.join(self, self.codec, self.settings.keep, {name: value for name, (value, _) in told.items()})

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
        check_followers(self.settings.defaults, self.registry.tasks)
        async with AsyncExitStack() as stack:
            sites = await stack.enter_async_context(open_sites(self.settings, self.events.emit))
            self._schedule_configured()
            refuse(self._working.recipe, self.schedules.static, sites)
            definitions = [task.definition for task in self.registry.tasks.values()]
            scope = Scoped("app", None, self.overrides)
            live = await stack.enter_async_context(
                opened(sites, self.settings, definitions, self._deferring, scope, self.events, self._outages.keeps)
            )
            self._lives.by_loop[live.loop] = live
            stack.callback(self._lives.by_loop.pop, live.loop)
            await stack.enter_async_context(self._notifier.watching())
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            yield live

    @property
    def backend(self) -> Backend:
        """The open backend; raises ConfigError before the app is open."""
        return self._lives.here().backend

    @property
    def sending(self) -> Backend:
        """The same as those who defer see it: with the spool and the outbox, if there are any."""
        return self._lives.here().sending

    @property
    def spool(self) -> Spooling | None:
        """Where what is deferred waits while the default broker is out of reach."""
        return self._lives.here().spool

    # Deferring

    def transaction(self, connection: Any) -> AbstractContextManager[None]:
        """Inside, every defer takes part in the caller's open transaction, as with ``options(tx=connection)``."""
        return self._deferring.transaction(connection)

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
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """A batch of this id: to be made with ``async with``, or to be asked after.

        ``then`` is enqueued when all members have returned, ``finished`` when all have ended, ``first_failure`` at the
        first that ended in another way. With ``parent`` it is a member of that batch. Raises ConfigError.
        """
        told = {"succeeded": then, "finished": finished, "first_failure": first_failure}
        plans = {event: callback(f"{id}.{event}", flow) for event, flow in told.items() if flow is not None}
        return Batch(self, id, draft(plans, id, options), parent)

    def batches(self, *, tag: str) -> AsyncGenerator[BatchStatus]:
        """How far the batches with this tag are, by rising id: those that have not ended, or did so within a day.

        Of one tag ten thousand are found, and none that is opened beyond them. Raises ConfigError.
        """
        return tagged(self, *check_tags(tag))

    def defer_each(
        self, calls: Iterable[Call[Any]] | AsyncIterable[Call[Any]], *, spread: Spread | None = None
    ) -> AsyncIterator[Enqueued]:
        """Defer any number of calls in bounded memory: one answer each, in order, with the error of a refused one.

        Raises BrokerUnavailable when the broker goes away; what was answered until then is enqueued.
        """
        return self._deferring.each(calls, spread)

    async def defer_many(
        self, calls: Iterable[Call[R]] | AsyncIterable[Call[R]], *, spread: Spread | None = None
    ) -> Sequence[JobHandle[R]]:
        """Defer many calls, up to a thousand to a round trip, and answer their handles.

        Raises PartlyEnqueued, after all the others were enqueued, when some were refused.
        """
        return await self._deferring.many(calls, spread, self)

    async def in_its_burst(self, job: Job, debounce: Debounce) -> Job:
        """The job as a debounced call enqueues it; while the Store is out of reach as one whose burst has no end."""
        try:
            return await in_its_burst(job, debounce, self.store)
        except BrokerUnavailable:
            # What becomes of it is for the enqueue to say: a spool may take it.
            return job

    async def run_inline(self, call: Call[R], *, retries: bool = False) -> R:
        """Run a call here and now, as workers run it: through all middleware, over the wire, within its time-outs.

        With ``retries`` as often as its task says, and after the waits that it says. Raises what the handler raised, in
        its last run. Nothing is stored or told, and no limits are asked.
        """
        return call.decode(await self._working.inline(self.find_task(call.job.task), call.start(), retries=retries))

    def prepared(self, task: Task[..., Any]) -> AbstractAsyncContextManager[Runnable]:
        """A task as a worker of this app runs it, with its dependencies open within the context."""
        return self._working.prepared(task)

    def limited(self, limit: Holding[R]) -> AbstractAsyncContextManager[R]:
        """Enter a limit outside of a job: ``async with app.limited(smtp.of("example.org")):``."""
        return holding(self.store, self.settings.lease, self.events, limit)

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
        results = self._lives.here().door(ref.queue).backend.results
        return await _part(results, "kept results").outcome(ref, wait=wait)

    async def lookup(self, ref: JobRef) -> Record | None:
        """A live job or dead letter."""
        return await self.admin.lookup(ref)

    async def progress(self, ref: JobRef) -> Progress | None:
        """What a live job or dead letter said last of how far it is."""
        return await read_progress(self.store, ref)

    async def explain(self, id: str, queue: str | None = None) -> Explanation:
        """Why a job does not run, or ran twice; without a queue it is searched for, and must not be gone."""
        return await explain(self, id, queue)

    async def cancel(self, ref: JobRef) -> bool:
        """Ask for a job to be cancelled; False when it has ended."""
        (found,) = await self.admin.cancel([ref])
        hints = self._lives.here().door(ref.queue).backend.hints
        if found and hints is not None:
            await hints.publish(CANCEL, ref.id)
        return found

    async def complete(self, ref: JobRef, value: object) -> bool:
        """Let a job end as if it had returned this, as :meth:`JobHandle.complete` does; False when it has ended."""
        return await complete(self, ref, self.codec.encode(value), lease=self.settings.lease)

    async def cancel_many(self, refs: Sequence[JobRef]) -> None:
        """Ask for jobs to be cancelled; those that run hear of it when their leases are extended."""
        for first in range(0, len(refs), 1000):
            await self.admin.cancel(refs[first : first + 1000])

    async def pause(
        self,
        *queues: str,
        tasks: Sequence[str] = (),
        tenants: Sequence[str] = (),
        tags: Sequence[str] = (),
        seconds: float | None = None,
        by: str = "",
    ) -> None:
        """Start no more jobs of these queues, tasks, tenants and tags, on any worker, for so long or until resumed.

        Workers know within a second. A paused queue costs nothing; of the others each job that waits is fetched and put
        back every five seconds, as the rest of its queue goes on. ``by`` names who does it, for ``taskq audit``.
        """
        names = pauses_of(queues, task=tasks, tenant=tenants, tag=tags)
        await note(self.store, "pause", *named(names), by=by, details="" if seconds is None else f"for {seconds:g} s")
        await pause(self.store, self.backend.hints, names, seconds)

    async def resume(
        self,
        *queues: str,
        tasks: Sequence[str] = (),
        tenants: Sequence[str] = (),
        tags: Sequence[str] = (),
        by: str = "",
    ) -> None:
        """Go on with these: within a second with queues, within five more with tasks, tenants and tags."""
        names = pauses_of(queues, task=tasks, tenant=tenants, tag=tags)
        await note(self.store, "resume", *named(names), by=by)
        await resume(self.store, self.backend.hints, names)

    def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a coroutine function of this app from code without an event loop; raises RuntimeError inside one."""
        refuse_inside_a_loop()
        for live in list(self._lives.by_loop.values()):
            if live.loop.is_running():
                return asyncio.run_coroutine_threadsafe(function(*args), live.loop).result()
        return self._portal.call(function, *args)

    # Working

    def presume(self, **settings: Any) -> None:
        """Let these count, where nobody has set them, instead of the defaults."""
        self._presumed |= settings
        self._adopt(self.config)

    def reread(self) -> None:
        """Read the settings again: they count for what is made from now on. Raises ConfigError, and keeps the old."""
        self._adopt(load_config(self._given, os.environ, Path.cwd()))

    def _adopt(self, config: Config) -> None:
        unset = {name: value for name, value in self._presumed.items() if config.sources[name] == "default"}
        self.config, self.settings = config, replace(config.settings, **unset)
        self._working.adopt(self.settings)

    def worker_options(self, **options: Any) -> WorkerOptions:
        """How a worker works by the settings, and by what is given here and not None."""
        return self._working.options(options)

    async def make_worker(self, scope: Scoped, **options: Any) -> Worker:
        """A worker on the open broker, its tasks' dependencies provided by ``scope``."""
        return await self._working.make(scope, self, options)

    async def relay(self) -> None:
        """Hand over what is committed to the outbox, until cancelled: what every worker does, without a worker.

        Opens the app if it is not open. Raises ConfigError when it has no outbox.
        """
        async with AsyncExitStack() as stack:
            if asyncio.get_running_loop() not in self._lives.by_loop:
                await stack.enter_async_context(self)
            relay = self._lives.here().relay
            if relay is None:
                raise ConfigError("this app has no outbox: name its database by App(outbox=...) or TASKQ_OUTBOX")
            await relay.run()

    async def run_worker(
        self,
        *,
        pools: Sequence[str] | None = None,
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
            if asyncio.get_running_loop() not in self._lives.by_loop:
                await stack.enter_async_context(self)
            scope = await stack.enter_async_context(self._lives.here().scope.inner("worker"))
            given = {"pools": pools, "queues": queues, "slots": slots, "grace": grace}
            worker = await self.make_worker(scope, **given, until=until, max_jobs=max_jobs)
            if started is not None:
                started(worker)
            await self._working.run(worker)

    def working(self, **options: Any) -> AbstractAsyncContextManager[Worker]:
        """A worker in this event loop, beside a web app or in a test: drained when the context is left."""
        return self._working.beside(self, options)


def _part(part: R | None, what: str) -> R:
    if part is None:
        raise MissingCapability(f"this broker has no {what}: pair it with a companion store, or choose another broker")
    return part
