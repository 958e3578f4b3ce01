"""A broker whose enqueue does not fail while the real one is out of reach: jobs wait in a local file until it is back.

Opt-in, for those who defer; workers never use it. What is in the file survives the process, and is shared by all
processes that name the file. While it holds anything, new jobs line up behind, so that none overtakes another. The
stages in which a batch is made lie among the jobs, each as the body of one.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import takewhile
from time import time
from typing import TypeVar

import anyio.to_thread
import msgspec
from msgspec import Struct

from taskq.broker import Broker, Traits
from taskq.call import new_id
from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError, SpoolFull, TaskqError
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement

T = TypeVar("T")

_log = logging.getLogger("taskq")

PROBE = 0.5
"""Seconds between tries to reach the broker while there is anything to hand over."""
LOOK = 5.0
"""Seconds between looks at the file while there should be nothing in it."""
_PART = 500
"""Jobs handed over in one call."""
_PAGE = 4 << 20
"""Bytes of them, from which on no further one is read."""
_STAGE = "taskq-stage"
"""The task of what is no job, but a stage in which a batch is made."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS taskq_spool (
  place INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, bytes INTEGER NOT NULL, job BLOB NOT NULL, refused TEXT
)
"""

Replay = Callable[[bytes, float], Awaitable[tuple[str, bytes] | None]]
"""Does a stage that was kept for so many seconds; answers why it was refused, and what of it."""


class Row(Struct, frozen=True):
    """One line of the file."""

    place: int
    at: float
    job: Job

    @property
    def is_stage(self) -> bool:
        """Whether it is no job."""
        return self.job.task == _STAGE


class Refusal(Struct, frozen=True):
    """Why the broker did not take a line, and what of it."""

    place: int
    reason: str
    job: Job


class Bounds(Struct, frozen=True):
    """How much a spool takes before it refuses."""

    size: int
    """Bytes of jobs."""
    age: float
    """Seconds since the oldest job came."""


class SpoolFile:
    """The jobs in the file, oldest first. Its calls block, and are made in threads."""

    def __init__(self, path: str, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        try:
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            # Written through to the system, if not to the disk: that outlives the process.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(_SCHEMA)
            self._connection.execute("PRAGMA user_version = 1")
            self._turn = sqlite3.connect(f"{path}.turn", timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise ConfigError(
                f"the spool {path} cannot be written ({error}): name a file in a directory that this user may write"
            ) from error

    def put(self, jobs: Sequence[Job]) -> str | None:
        """Keep all of these or none; the answer says why none."""
        now = time()
        rows = [(now, len(encoded), encoded) for encoded in map(msgspec.msgpack.encode, jobs)]
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            size, oldest = held.execute(
                "SELECT coalesce(sum(bytes), 0), min(at) FROM taskq_spool WHERE refused IS NULL"
            ).fetchone()
            if size + sum(row[1] for row in rows) > self._bounds.size:
                return f"the broker is out of reach, and the spool {self._path} holds {size:,} bytes already"
            if oldest is not None and now - oldest > self._bounds.age:
                return f"the broker has been out of reach for {now - oldest:,.0f} s, longer than the spool waits"
            held.executemany("INSERT INTO taskq_spool (at, bytes, job) VALUES (?, ?, ?)", rows)
        return None

    def first(self) -> list[Row]:
        """The oldest lines that are handed over together: jobs, or a single stage."""
        rows: list[Row] = []
        size = 0
        found = self._connection.execute(
            "SELECT place, at, bytes, job FROM taskq_spool WHERE refused IS NULL ORDER BY place LIMIT ?", (_PART,)
        )
        for place, at, taken, encoded in found:
            rows.append(Row(place, at, msgspec.msgpack.decode(encoded, type=Job)))
            size += taken
            if size > _PAGE:
                break
        found.close()
        return rows[:1] if rows and rows[0].is_stage else list(takewhile(lambda row: not row.is_stage, rows))

    def refused(self) -> list[str]:
        """Why the broker did not take what is still here."""
        return [
            reason for (reason,) in self._connection.execute("SELECT refused FROM taskq_spool WHERE refused NOTNULL")
        ]

    def settle(self, gone: Sequence[int], refused: Sequence[Refusal]) -> None:
        """Forget what was handed over; what was refused stays, with the reason, for a person to look at."""
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            held.executemany("DELETE FROM taskq_spool WHERE place = ?", [(place,) for place in gone])
            lines = [(each.reason, msgspec.msgpack.encode(each.job), each.place) for each in refused]
            held.executemany("UPDATE taskq_spool SET refused = ?, job = ? WHERE place = ?", lines)

    def take_turn(self) -> bool:
        """Whether this process is the one to hand over; so it is until :meth:`end_turn`, or until it dies."""
        try:
            self._turn.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        return True

    def end_turn(self) -> None:
        """Let another process hand over."""
        if self._turn.in_transaction:
            self._turn.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self._turn.close()
        self._connection.close()


class Spooling:
    """The broker, with the file behind it."""

    def __init__(self, broker: Broker, file: SpoolFile, replay: Replay) -> None:
        self._broker = broker
        self._replay = replay
        # Of two parts one could be taken, while the one before it goes to the file.
        self._traits = msgspec.structs.replace(broker.traits, pipelined=False)
        self._file = file
        self._lock = asyncio.Lock()
        self._holds = asyncio.Event()
        """Set while jobs of this process may be in the file."""

    @property
    def traits(self) -> Traits:
        """Those of the broker, one call at a time."""
        return self._traits

    @property
    def holds(self) -> bool:
        """Whether something of this process may be in the file, so that all else lines up behind."""
        return self._holds.is_set()

    async def keep(self, stage: bytes) -> None:
        """Keep a stage in which a batch is made; raises SpoolFull."""
        (answer,) = await self._keep([Job(id=new_id(), task=_STAGE, body=stage)])
        if answer.error is not None:
            raise answer.error

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """As the broker does; while that is out of reach each job is added to the file, or refused with SpoolFull."""
        if not self._holds.is_set():
            try:
                answers = await self._broker.enqueue(jobs)
            except BrokerUnavailable as error:
                _log.warning("the broker does not answer (%s): jobs are kept in the spool until it does", error)
            else:
                away = [at for at, answer in enumerate(answers) if isinstance(answer.error, BrokerUnavailable)]
                if not away:
                    return answers
                _log.warning("a server of the broker does not answer: its jobs are kept in the spool until it does")
                kept = dict(zip(away, await self._keep([jobs[at] for at in away]), strict=True))
                return [kept.get(at, answer) for at, answer in enumerate(answers)]
        return await self._keep(jobs)

    async def _keep(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        try:
            full = await self._in_thread(lambda: self._file.put(jobs))
        except sqlite3.Error as error:
            full = f"the broker is out of reach, and the spool cannot be written: {error}"
        self._holds.set()
        return [Enqueued(job.id, full is None, None if full is None else SpoolFull(full)) for job in jobs]

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        """As the broker does."""
        return await self._broker.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """As the broker does."""
        return await self._broker.settle(settlements)

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        """As the broker does."""
        return await self._broker.extend(receipts, lease)

    async def look(self) -> None:
        """Find out whether an earlier process left anything: then new jobs line up behind."""
        if await self._in_thread(self._file.first):
            self._holds.set()

    async def run(self) -> None:
        """Hand over what the file holds, whenever it holds anything, until cancelled."""
        while True:
            # What another process left when it died tells nobody.
            with anyio.move_on_after(LOOK):
                await self._holds.wait()
            try:
                if await self._in_thread(self._file.take_turn):
                    try:
                        await self._hand_over()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await self._in_thread(self._file.end_turn)
                    continue
            except (BrokerUnavailable, sqlite3.Error) as error:
                _log.debug("the spool cannot be handed over yet: %s", error)
            await anyio.sleep(PROBE)

    async def _hand_over(self) -> None:
        handed = 0
        while True:
            async with self._lock:
                # Under the lock, or a job could come between this look and what follows from it.
                rows = await anyio.to_thread.run_sync(self._file.first)
                if not rows:
                    self._holds.clear()
                    break
            errors = await (self._do(rows[0]) if rows[0].is_stage else self._enqueue(rows))
            away = [error for error in errors if isinstance(error, BrokerUnavailable)]
            refused = [error for error in errors if isinstance(error, Refusal)]
            gone = [row.place for row, error in zip(rows, errors, strict=True) if error is None]
            for each in refused:
                what = "a stage of a batch" if each.job.task == _STAGE else f"job {each.job.id}"
                _log.error("%s was refused by the broker, and stays in the spool: %s", what, each.reason)
            await self._in_thread(partial(self._file.settle, gone, refused))
            if away:
                raise away[0]
            handed += len(gone)
        if handed:
            _log.warning("the broker answers again, and has all %d jobs and stages of batches of the spool", handed)

    async def _do(self, row: Row) -> Sequence[Refusal | None]:
        refused = await self._replay(row.job.body, time() - row.at)
        if refused is None:
            return [None]
        reason, rest = refused
        return [Refusal(row.place, reason, msgspec.structs.replace(row.job, body=rest))]

    async def _enqueue(self, rows: Sequence[Row]) -> Sequence[Refusal | BrokerUnavailable | None]:
        """Why each was not taken, or None."""
        now = time()
        jobs = [row.job.aged(now - row.at) for row in rows]
        try:
            size = self.traits.max_batch
            answers = [
                answer
                for at in range(0, len(jobs), size)
                for answer in await self._broker.enqueue(jobs[at : at + size])
            ]
        except BrokerRejected as error:
            if len(rows) == 1:
                return [Refusal(rows[0].place, str(error), rows[0].job)]
            return [refused for row in rows for refused in await self._enqueue([row])]
        return [_refusal(row, answer.error) for row, answer in zip(rows, answers, strict=True)]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        async with self._lock:
            return await anyio.to_thread.run_sync(call)


def _refusal(row: Row, error: TaskqError | None) -> Refusal | BrokerUnavailable | None:
    if error is None or isinstance(error, BrokerUnavailable):
        return error
    return Refusal(row.place, str(error), row.job)


@asynccontextmanager
async def spooling(broker: Broker, path: str, bounds: Bounds, replay: Replay) -> AsyncGenerator[Spooling]:
    """The broker with a spool, handed over from as long as the context is open. Raises ConfigError."""
    file = SpoolFile(path, bounds)
    spool = Spooling(broker, file, replay)
    await spool.look()
    # Not a task group: it would wrap whatever the body raises into a group.
    runner = asyncio.get_running_loop().create_task(spool.run())
    try:
        yield spool
    finally:
        runner.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({runner})
        file.close()
