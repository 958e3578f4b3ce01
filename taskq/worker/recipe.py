"""How an app's tasks are run: what a worker needs of the registry, made once when it starts."""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
from msgspec import Struct

from taskq.broker import Backend, Finding
from taskq.codec import Codec
from taskq.collect import collecting
from taskq.config import Settings
from taskq.definition import Definition
from taskq.depends import Scoped
from taskq.errors import ConfigError, EncodeError, UnknownTask
from taskq.following import FollowUp
from taskq.joblog import Recorder
from taskq.middleware import Middleware
from taskq.ownbatch import Prepare
from taskq.pools import UNNAMED, PoolSettings, Selection, home_of, named_pool, selection_of, warnings_of
from taskq.report import Death, Redact
from taskq.schedule import Schedule
from taskq.task import Task
from taskq.timeouts import Timeouts
from taskq.worker.handlers import Executors, build_handler
from taskq.worker.options import PoolOptions, WorkerOptions
from taskq.worker.run import Runnable
from taskq.worker.ticker import HINTED_POLL, POLL, TickDesk, Ticker
from taskq.worker.undertaker import Caps

_log = logging.getLogger("taskq")


class Recipe(Struct, frozen=True):
    """Tasks, and what their app says of all of them."""

    tasks: Mapping[str, Task[..., Any]]
    settings: Settings
    codec: Codec
    middleware: Sequence[Middleware]
    on_dead: str | None
    redact: Redact | None
    prepare: Prepare
    """What a job passes that a handler adds to its batch."""

    @property
    def queues(self) -> Sequence[str]:
        """Those of the tasks."""
        return list(dict.fromkeys(task.queue for task in self.tasks.values()))

    def worker_options(self, given: Mapping[str, Any]) -> WorkerOptions:
        """The settings, and what is ``given`` instead. Raises ConfigError for a pool that is not configured."""
        settings, rest = self.settings, dict(given)
        said = {name: rest.pop(name) for name in ("pools", "queues", "slots") if name in rest}
        defaults: dict[str, Any] = {
            "pools": [self._pool_options(name, pool) for name, pool in self._pools(**said).items()],
            "known": [*self.queues, "default"],
            "lease": settings.lease,
            "grace": settings.grace,
            "on_lost_contact": settings.on_lost_contact,
            "stall_warning": settings.stall_warning,
            "stall_limit": settings.stall_limit,
            "lag_target": settings.lag_target,
            "slots_min": settings.slots_min,
            "growth_warning": settings.growth_warning,
            "dead": Caps(settings.dead_count or inf, settings.dead_size or inf),
            "build": settings.build,
            "threads": not getattr(asyncio.get_running_loop(), "is_virtual", False),
        }
        return WorkerOptions(**{**defaults, **rest})

    def _pools(
        self, pools: Sequence[str] = (), queues: Sequence[str] = (), slots: int | None = None
    ) -> Mapping[str, PoolSettings]:
        """Those of these names; all; or, where none is configured or something else is said, one without a name."""
        if pools and (queues or slots):
            raise ConfigError("a pool says which queues it takes, and how many slots it has: give pools or these")
        if slots is not None and slots < 1:
            raise ConfigError(f"slots={slots}: a worker runs at least one job at once")
        if pools:
            return {name: named_pool(name, self.settings.pools) for name in pools}
        if self.settings.pools and not queues and slots is None:
            self._tell(warnings_of(self.settings.pools, self.queues))
            return self.settings.pools
        # What the app tells of its jobs comes after all of them.
        every = sorted(dict.fromkeys([*self.queues, "default"]), key=lambda queue: queue == self.settings.notify_queue)
        wanted = tuple(queues or self.settings.queues or every)
        self._tell(self._untold(wanted))
        broker, *others = dict.fromkeys(home_of(queue, self.settings.pools) for queue in wanted if queue[0] != "!")
        if others:
            raise ConfigError(
                f"queues {', '.join(wanted)} are on several brokers, and a pool is on one: name pools, or queues of one"
            )
        return {UNNAMED: PoolSettings(queues=wanted, slots=slots, broker=broker)}

    def findings(self) -> Sequence[Finding]:
        """What an operator should know of the queues that workers are to fetch."""
        untold = self._untold(self.settings.queues) if self.settings.queues else ()
        return [*warnings_of(self.settings.pools, self.queues), *untold]

    def _untold(self, wanted: Sequence[str]) -> Sequence[Finding]:
        queue = self.settings.notify_queue
        if not self.settings.notify or Selection(wanted).pattern_of(queue) is not None:
            return ()
        message = "nobody is told of failures by who fetches other queues alone: add it, or let another worker fetch it"
        return [Finding(f"queue {queue}", "warning", message)]

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            _log.warning("%s: %s", finding.subject, finding.message)

    def _pool_options(self, name: str, pool: PoolSettings) -> PoolOptions:
        slots = pool.slots or self.settings.slots
        pools = self.settings.pools
        selection = selection_of(name, pools) if name in pools else pool.selection
        return PoolOptions(name=name, selection=selection, slots=slots, broker=pool.broker)

    def ticker(self, backend: Backend, schedules: Mapping[str, Schedule], desk: TickDesk) -> Ticker | None:
        """Who fires these schedules and the stored ones; nobody without a Store."""
        if backend.store is None:
            return None
        poll = POLL if backend.hints is None else HINTED_POLL
        if getattr(asyncio.get_running_loop(), "is_virtual", False):
            poll = inf
        return Ticker(backend, backend.store, schedules, desk=desk, poll=poll)

    def executors(self, pool: PoolSettings | None = None) -> Executors:
        """Room for sync handlers, as the settings and the pool say."""
        threads, processes = self.settings.threads, self.settings.processes or os.cpu_count() or 1
        if pool is None:
            return Executors(threads=threads, processes=processes)
        return Executors(threads=pool.threads or threads, processes=pool.processes or processes, sync=pool.executor)

    def recorder(self, backend: Backend) -> Recorder | None:
        """Who keeps what jobs log and print; nobody where no task wants that, or nothing can be kept."""
        wanted = any(map(self._captured, self.tasks.values()))
        return Recorder(backend.store, self.redact) if wanted and backend.store is not None else None

    def _captured(self, task: Task[..., Any]) -> int:
        own = task.definition.capture
        return self.settings.capture if own is None else own

    async def runnables(
        self, scope: Scoped, pools: Iterable[PoolOptions], recorder: Recorder | None
    ) -> Mapping[str, Mapping[str, Runnable]]:
        """For each pool every task as it runs there; opens what they depend on in ``scope``."""
        return {pool.name: await self._runnables(scope, self.settings.pools.get(pool.name), recorder) for pool in pools}

    async def _runnables(
        self, scope: Scoped, pool: PoolSettings | None, recorder: Recorder | None
    ) -> Mapping[str, Runnable]:
        executors = self.executors(pool)
        return {name: await self.runnable(task, executors, scope, recorder) for name, task in self.tasks.items()}

    async def runnable(
        self, task: Task[..., Any], executors: Executors, scope: Scoped, recorder: Recorder | None = None
    ) -> Runnable:
        """One task as a worker runs it."""
        definition = task.definition
        policy = msgspec.structs.replace(
            task.policy(self.settings.keep_dead),
            on_dead=self.follow_up(definition),
            redact=self.redact,
            build=self.settings.build or "",
        )
        captured = 0 if recorder is None else self._captured(task)
        layers = [recorder.layer(captured), *self.middleware] if recorder is not None and captured else self.middleware
        handler = await build_handler(definition, executors, scope, layers)
        if definition.collect is not None:
            handler = collecting(handler, task.signature, self.codec)
        return Runnable(
            policy=policy,
            decode=task.signature.decode,
            encode=self.codec.encode,
            handler=handler,
            timeouts=None if definition.timeouts == Timeouts() else definition.timeouts,
            transaction=definition.transaction,
            version=definition.version,
            upcast=definition.upcast,
            limits=task.limits,
            prepare=self.prepare,
            codec=self.codec,
            grace=self.settings.grace,
        )

    def follow_up(self, definition: Definition) -> FollowUp | None:
        """Who is told when a job of this task is set aside; raises ConfigError when that task does not take it."""
        name = definition.on_dead or self.on_dead
        if name is None or name == definition.name:
            return None
        told = self.tasks.get(name)
        if told is None:
            raise UnknownTask(f"task {definition.name}: on_dead names {name!r}, which is no task of this app")
        try:
            arguments = told.signature.bind((Death("", "", "", "failed", "", 1),), {})
            told.signature.encode(arguments)
        except EncodeError as error:
            raise ConfigError(
                f"task {name} is to be told of dead letters: give it one argument of type Death"
            ) from error
        return FollowUp(told.name, told.queue, next(iter(arguments)))
