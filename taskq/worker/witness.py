"""Of a job that one more dead worker would set aside, what its worker tells: nobody is there afterwards to tell.

It is written down before such a run begins, and whenever its lease is extended, from the thread that does so: a run
that blocks the event loop is told of, too. Whoever sets the job aside finds there who had it last, for how long, with
how much memory, beside what, and where it was. Where nothing was written, as of a first run, the worker's entry among
those present is all there is.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from taskq.errors import BrokerError
from taskq.job import Delivery, Job
from taskq.report import LastSeen
from taskq.store import Store
from taskq.worker.memory import memory_of
from taskq.worker.register import Entry, entries
from taskq.worker.run import Run
from taskq.worker.stacks import stack_of_thread

KEPT = 86_400.0
"""Seconds for which a note is kept: longer than all workers are away. It is of rare jobs, and lapses by itself."""
SHOWN = 10
"""Other jobs that are told of at most."""


class Note(Struct, frozen=True):
    """What is written down of one run."""

    losses: int
    """How many workers had died before this one."""
    seen: LastSeen


class Witness:
    """Tells for one worker, made in its loop."""

    def __init__(self, store: Store, worker: str, running: Callable[[], Sequence[Run]]) -> None:
        self._store = store
        self._worker = worker
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def tells_of(self, run: Run) -> bool:
        """Whether the job is set aside should this run's worker die."""
        losses = run.delivery.losses
        return losses > 0 and losses + 1 >= run.policy.max_losses and run.started is not None

    async def begin(self, run: Run) -> None:
        """Tell of a run that is about to begin."""
        with suppress(BrokerError):
            await self._write(self._store, run, "")

    async def tell(self, store: Store, run: Run) -> None:
        """Tell of a run that goes on; from any thread, with a Store of its own."""
        if run.fiber is not None:
            blocks = asyncio.current_task(self._loop) is run.fiber
            await self._write(store, run, stack_of_thread(self._thread) if blocks else run.stack)

    async def _write(self, store: Store, run: Run, stack: str) -> None:
        key, losses = _key(run.delivery.job), run.delivery.losses
        entry = await store.get(key)
        found = _read(entry.value)
        if found is None or found.losses <= losses:
            note = Note(losses, self._seen(run, entry.now, stack))
            await store.swap(key, entry.value, msgspec.json.encode(note), ttl=KEPT)

    def _seen(self, run: Run, now: float, stack: str) -> LastSeen:
        beside = [other.delivery.job.task for other in self._running() if other is not run]
        return LastSeen(
            worker=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            seconds=self._loop.time() - (run.started or 0.0),
            at=now,
            memory=memory_of("self"),
            beside=tuple(beside[:SHOWN]),
            stack=stack,
        )


async def last_seen(store: Store, deliveries: Sequence[Delivery]) -> Sequence[LastSeen | None]:
    """What is known of the workers that died under these, the last ones; None: nothing, or the Store is away."""
    seen: list[LastSeen | None] = [None] * len(deliveries)
    with suppress(BrokerError):
        for number, delivery in enumerate(deliveries):
            note = _read((await store.get(_key(delivery.job))).value) if delivery.losses else None
            # An older one is of an earlier loss.
            seen[number] = note.seen if note is not None and note.losses + 1 == delivery.losses else None
        if any(delivery.losses and known is None for delivery, known in zip(deliveries, seen, strict=True)):
            present = _present(await entries(store))
            told = [present.get((delivery.job.queue, delivery.job.id)) for delivery in deliveries]
            seen = [known or entry for known, entry in zip(seen, told, strict=True)]
    return seen


def _present(found: Sequence[Entry]) -> Mapping[tuple[str, str], LastSeen]:
    """By job, who tells of running it."""
    return {
        (job.queue, job.id): LastSeen(
            worker=entry.id,
            host=entry.host,
            pid=entry.pid,
            seconds=job.seconds,
            memory=entry.memory,
            beside=tuple(other.task for other in entry.jobs if other is not job)[:SHOWN],
        )
        for entry in found
        for job in entry.jobs
    }


def _key(job: Job) -> str:
    return f"witness:{job.queue}:{job.id}"


def _read(value: bytes | None) -> Note | None:
    with suppress(msgspec.MsgspecError):
        return None if value is None else msgspec.json.decode(value, type=Note)
    return None
