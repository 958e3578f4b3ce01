"""How an app's tasks are run: what a worker needs of the registry, made once when it starts."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import msgspec
from msgspec import Struct

from taskq.broker import Backend
from taskq.codec import Codec
from taskq.collect import collecting
from taskq.config import Settings
from taskq.definition import Definition
from taskq.depends import Scoped
from taskq.errors import ConfigError, EncodeError, UnknownTask
from taskq.middleware import Middleware
from taskq.outcome import FollowUp
from taskq.ownbatch import Prepare
from taskq.report import Death, Redact
from taskq.schedule import Schedule
from taskq.task import Task
from taskq.worker.handlers import Executors, build_handler
from taskq.worker.runner import Runnable
from taskq.worker.ticker import HINTED_POLL, POLL, TickDesk, Ticker
from taskq.worker.undertaker import Caps
from taskq.worker.worker import WorkerOptions


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

    def worker_options(self, given: Mapping[str, Any]) -> WorkerOptions:
        """The settings, and what is ``given`` instead."""
        settings = self.settings
        queues = settings.queues or tuple(dict.fromkeys([*(task.queue for task in self.tasks.values()), "default"]))
        defaults: dict[str, Any] = {
            "queues": queues,
            "slots": settings.slots,
            "lease": settings.lease,
            "grace": settings.grace,
            "on_lost_contact": settings.on_lost_contact,
            "stall_warning": settings.stall_warning,
            "stall_limit": settings.stall_limit,
            "dead": Caps(settings.dead_count or inf, settings.dead_size or inf),
            "threads": not getattr(asyncio.get_running_loop(), "is_virtual", False),
        }
        return WorkerOptions(**{**defaults, **given})

    def ticker(self, backend: Backend, schedules: Mapping[str, Schedule], desk: TickDesk) -> Ticker | None:
        """Who fires these schedules and the stored ones; nobody without a Store."""
        if backend.store is None:
            return None
        poll = POLL if backend.hints is None else HINTED_POLL
        if getattr(asyncio.get_running_loop(), "is_virtual", False):
            poll = inf
        return Ticker(backend, backend.store, schedules, desk=desk, poll=poll)

    def executors(self) -> Executors:
        """Room for sync handlers, as the settings say."""
        return Executors(threads=self.settings.threads, processes=self.settings.processes or os.cpu_count() or 1)

    async def runnables(self, scope: Scoped) -> Mapping[str, Runnable]:
        """Every task as a worker runs it; opens what they depend on in ``scope``."""
        executors = self.executors()
        return {name: await self.runnable(task, executors, scope) for name, task in self.tasks.items()}

    async def runnable(self, task: Task[..., Any], executors: Executors, scope: Scoped) -> Runnable:
        """One task as a worker runs it."""
        definition = task.definition
        policy = msgspec.structs.replace(
            task.policy(self.settings.keep_dead), on_dead=self.follow_up(definition), redact=self.redact
        )
        handler = await build_handler(definition, executors, scope, self.middleware)
        if definition.collect is not None:
            handler = collecting(handler, task.signature.decode, next(iter(task.signature.names)))
        return Runnable(
            policy=policy,
            decode=task.signature.decode,
            encode=self.codec.encode,
            handler=handler,
            timeout=definition.timeout,
            transaction=definition.transaction,
            version=definition.version,
            upcast=definition.upcast,
            limits=task.limits,
            prepare=self.prepare,
            codec=self.codec,
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
