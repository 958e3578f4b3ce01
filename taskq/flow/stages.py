"""The making of a batch in stages: opened, filled chunk by chunk, sealed.

Each may be done again and is then done once, so that a producer may begin anew, and a spool keep stages until the
broker is back. Whoever has missed one keeps all that follow: their order is what makes the batch.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Backend
from taskq.errors import BatchSealed, BrokerUnavailable, ConfigError, TaskqError
from taskq.flow.bounds import refuse_beyond, refuse_deeper
from taskq.flow.members import Membership
from taskq.flow.record import OPEN, Record, batch_key, change, read_record, sealed_at, sizes_of
from taskq.job import Job, JobRef
from taskq.store import Store


class Opening(Struct, frozen=True, tag="open"):
    """From here on the batch is there."""

    batch: str
    record: Record
    parent: str | None = None


class Chunk(Struct, frozen=True, tag="add"):
    """Numbered members, up to a thousand."""

    batch: str
    name: str
    jobs: tuple[Job, ...]


class Sealing(Struct, frozen=True, tag="seal"):
    """From here on it ends with its last member."""

    batch: str


Stage = Opening | Chunk | Sealing


class Spool(Protocol):
    """Where stages wait while the broker is out of reach."""

    @property
    def holds(self) -> bool:
        """Whether anything waits, so that the next one lines up behind it."""
        ...

    async def keep(self, stage: bytes) -> None:
        """Keep one; raises SpoolFull."""
        ...


class Making:
    """One batch in the making."""

    def __init__(self, store: Store, backend: Backend, spool: Spool | None = None) -> None:
        self._store = store
        self._backend = backend
        self._spool = spool
        self._keeps = False
        """It has missed a stage."""
        self._members = Membership(store, backend.broker)
        self._known: Mapping[str, int] | None = None
        """The chunks that an earlier producer has begun, and how many members each has; None: nobody has looked."""
        self._record = Record()
        self._total = 0
        self._counted: set[str] = set()
        """The chunks that this producer has added to that."""
        self._sealed = False

    def has_begun(self, chunk: str) -> bool:
        """Whether an earlier producer is known to have added this chunk."""
        return self._known is not None and chunk in self._known

    async def do(self, stage: Stage) -> Mapping[str, TaskqError]:
        """Do it, or keep it until the broker is back; answers which members were refused and why, by their ids.

        Those have failed. Raises BatchSealed, BatchFull, ConfigError for a batch in itself or another one than before,
        SpoolFull, and BrokerUnavailable where there is no spool.
        """
        spool = self._spool
        if spool is None:
            return await self._do(stage)
        if not (self._keeps or spool.holds):
            try:
                return await self._do(stage)
            except BrokerUnavailable:
                # What was done of it is done again, and counts once.
                pass
        if isinstance(stage, Opening):
            self._record = stage.record
        elif isinstance(stage, Chunk) and not self.has_begun(stage.name):
            # Its producer is to know, who does not hear of what is refused later.
            self._count(stage)
        await spool.keep(msgspec.msgpack.encode(stage))
        self._keeps = True
        return {}

    def _count(self, chunk: Chunk) -> None:
        """Raises BatchFull for more members than the batch takes; one chunk counts once, however often it is tried."""
        if chunk.name not in self._counted:
            refuse_beyond(chunk.batch, self._record, self._total + len(chunk.jobs))
            self._total += len(chunk.jobs)
            self._counted.add(chunk.name)

    async def _do(self, stage: Stage) -> Mapping[str, TaskqError]:
        match stage:
            case Opening():
                await self._open(stage)
            case Chunk():
                return await self._add(stage)
            case Sealing():
                await self._seal(stage.batch)
        return {}

    async def _open(self, opening: Opening) -> None:
        record = opening.record
        if opening.parent is not None:
            await self._refuse_cycle(opening.batch, opening.parent)
            record = replace(record, parent=await self._members.join(opening.parent, opening.batch))
        if await self._members.open(opening.batch, record):
            await self._look(opening.batch)
        else:
            self._known = {}
        self._record = record

    async def _look(self, id: str) -> Mapping[str, int]:
        entry = await self._store.get(batch_key(id))
        record = read_record(entry.value)
        if record is None:
            raise ConfigError(f"batch {id} was not opened: nothing can be added to it")
        self._record = record
        self._sealed = OPEN not in entry.members
        self._known = await sizes_of(self._store, id)
        self._total = sum(self._known.values())
        return self._known

    async def _add(self, chunk: Chunk) -> Mapping[str, TaskqError]:
        batch, jobs = chunk.batch, chunk.jobs
        known = await self._look(batch) if self._known is None else self._known
        before = known.get(chunk.name)
        if before is None and self._sealed:
            raise BatchSealed(f"batch {batch} has been sealed: it takes no more members")
        if before not in (None, len(jobs)):
            raise changed(batch, f"in part {chunk.name} there were {before} then, and are {len(jobs)} now")
        if before is None:
            self._count(chunk)
        errors = await self._members.add(jobs, again=before is not None)
        if await self._members.is_cancelled(batch):
            if self._backend.admin is not None:
                await self._backend.admin.cancel([JobRef(job.queue, job.id) for job in jobs])
            raise BatchSealed(f"batch {batch} was cancelled: it takes no more members")
        return errors

    async def _seal(self, id: str) -> None:
        entry = await self._store.get(batch_key(id))
        record = read_record(entry.value)
        if record is not None and not record.gathers:
            await change(self._store, id, lambda found: sealed_at(found, entry.now))
        await self._members.seal(id)
        if record is not None and record.progress:
            await self._members.progress.look(id)

    async def _refuse_cycle(self, id: str, parent: str) -> None:
        above: str | None = parent
        levels = 0
        while above is not None:
            levels += 1
            if above == id:
                raise ConfigError(f"batch {id} cannot be in a batch that is in itself")
            entry = await self._store.get(batch_key(above))
            record = read_record(entry.value)
            if record is None:
                raise ConfigError(f"there is no batch {above!r} for batch {id} to be in")
            if above == parent and (record.cancelled or not entry.members) and await self._is_new(id):
                raise BatchSealed(f"batch {parent} has ended: it takes no more members")
            refuse_deeper(above, record, levels)
            above = None if record.parent is None else record.parent.batch

    async def _is_new(self, id: str) -> bool:
        return (await self._store.get(batch_key(id))).value is None


def changed(id: str, how: str) -> ConfigError:
    """What refuses a producer that has begun again with other calls."""
    return ConfigError(
        f"batch {id}: its producer was begun again with other calls than before ({how}); begin it with the "
        "same calls in the same order, or give each stream of calls a key="
    )


async def replay(backend: Backend, data: bytes, waited: float) -> tuple[str, bytes] | None:
    """Do a stage that was kept for so many seconds; answers why it was refused, and what of it.

    Raises BrokerUnavailable: it is to be done again.
    """
    stage = msgspec.msgpack.decode(data, type=Stage)
    if isinstance(stage, Chunk):
        stage = replace(stage, jobs=tuple(job.aged(waited) for job in stage.jobs))
    assert backend.store is not None, "without one no batch is begun"  # noqa: S101
    try:
        errors = await Making(backend.store, backend).do(stage)
    except BrokerUnavailable:
        raise
    except TaskqError as error:
        return str(error), data
    if not errors or not isinstance(stage, Chunk):
        return None
    refused = tuple(job for job in stage.jobs if job.id in errors)
    reason = f"{len(refused)} of {len(stage.jobs)} members of batch {stage.batch} were refused: {errors[refused[0].id]}"
    return reason, msgspec.msgpack.encode(replace(stage, jobs=refused))
