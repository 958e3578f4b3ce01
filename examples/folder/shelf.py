"""Files of jobs, moved under a lock that ends with its process."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from math import inf
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import msgspec

from examples.folder.names import Name
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement

STATES = ("ready", "leased", "dead")
_NEVER = 2**62
"""Later than any moment, and still one that a file can have."""


class Shelf:
    """``<root>/<queue>/ready|leased|dead``: every method is one step, for any number of processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def add(self, jobs: list[Job]) -> list[Enqueued]:
        """Write each job that is not here yet; it is on the disk when this returns."""
        with self._locked():
            return [self._add(place, job) for place, job in enumerate(jobs)]

    def take(self, queues: list[str], limit: int, lease: float) -> list[Delivery]:
        """Lease what is due, in order; a lease that is over is as good as none."""
        taken: list[Delivery] = []
        with self._locked():
            for queue in queues:
                self._forget_dead(queue)
                now = time.time_ns()
                due = sorted([*self._waiting(queue, now), *self._lapsed(queue, now)], key=lambda found: found[0])
                for text, path in due[: limit - len(taken)]:
                    taken.append(self._lease(queue, Name.read(text), path, now, lease))
        return taken

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        """End leases whose receipts are good."""
        with self._locked():
            return [self._settle(settlement) for settlement in settlements]

    def extend(self, receipts: list[str], lease: float) -> list[Lease]:
        """Move the ends of leases whose receipts are good."""
        with self._locked():
            held = [self._leased(receipt) for receipt in receipts]
            for path in filter(None, held):
                _set_end(path, lease)
        return [Lease.LOST if path is None else Lease.HELD for path in held]

    # Steps

    @contextmanager
    def _locked(self) -> Generator[None]:
        with (self._root / ".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield

    def _folder(self, queue: str, state: str) -> Path:
        folder = self._root / queue / state
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _add(self, place: int, job: Job) -> Enqueued:
        end = f",{quote(job.id, safe='')}"
        live = (path for state in STATES for path in self._folder(job.queue, state).iterdir())
        if any(path.name.endswith(end) for path in live):
            return Enqueued(job.id, added=False)
        now = time.time_ns()
        due = now + int(job.delay * 1e9) if job.run_at is None else max(now, int(job.run_at * 1e9))
        expires = due + int(job.expires_in * 1e9) if job.expires_in is not None else 0
        name = Name(job.priority, due, place, expires, ends=0, losses=0, fence=0, job=job.id)
        _write(self._folder(job.queue, "ready") / name.written(), msgspec.json.encode(job))
        return Enqueued(job.id, added=True)

    def _waiting(self, queue: str, now: int) -> Iterator[tuple[str, Path]]:
        for path in self._folder(queue, "ready").iterdir():
            if Name.read(path.name).due <= now:
                yield path.name, path

    def _lapsed(self, queue: str, now: int) -> Iterator[tuple[str, Path]]:
        """Due since their leases ended, and one more is counted as lost."""
        for path in self._folder(queue, "leased").iterdir():
            end = path.stat().st_mtime_ns
            if end <= now:
                name = Name.read(path.name.partition(" ")[2])
                yield name._replace(due=end, losses=name.losses + 1).written(), path

    def _lease(self, queue: str, name: Name, path: Path, now: int, lease: float) -> Delivery:
        name = name._replace(fence=name.fence + 1)
        token = uuid4().hex
        leased = self._folder(queue, "leased") / f"{token} {name.written()}"
        _set_end(path, lease)
        path.rename(leased)
        job = msgspec.json.decode(leased.read_bytes(), type=Job)
        error = self._error(queue, name.job)
        return Delivery(
            job=job,
            attempt=name.ends + 1,
            losses=name.losses,
            fence=name.fence,
            receipt=f"{queue}/leased/{leased.name}",
            now=now / 1e9,
            due=name.due / 1e9,
            expires_at=name.expires / 1e9 if name.expires else None,
            error=error.read_bytes() if error.exists() else None,
        )

    def _settle(self, settlement: Settlement) -> bool:
        path = self._leased(settlement.receipt)
        if path is None:
            return False
        queue, name = path.parents[1].name, Name.read(path.name.partition(" ")[2])
        error = self._error(queue, name.job)
        match settlement:
            case Ack():
                path.unlink()
                error.unlink(missing_ok=True)
            case Nack():
                if settlement.error is not None:
                    _write(error, settlement.error)
                due = time.time_ns() + int(settlement.after * 1e9)
                again = name._replace(due=due, ends=name.ends + settlement.counted)
                path.rename(self._folder(queue, "ready") / again.written())
            case DeadLetter():
                _write(error, settlement.outcome)
                _set_end(path, settlement.keep)
                path.rename(self._folder(queue, "dead") / name.written())
        return True

    def _leased(self, receipt: str) -> Path | None:
        path = self._root / receipt
        known = path.parent.name == "leased" and path.parents[2] == self._root
        return path if known and path.exists() else None

    def _error(self, queue: str, job: str) -> Path:
        """What was last said against the job."""
        return self._folder(queue, "errors") / quote(job, safe="")

    def _forget_dead(self, queue: str) -> None:
        now = time.time_ns()
        for path in self._folder(queue, "dead").iterdir():
            if path.stat().st_mtime_ns <= now:
                path.unlink()
                self._error(queue, Name.read(path.name).job).unlink(missing_ok=True)


def _set_end(path: Path, seconds: float) -> None:
    """The time of a file is the moment when its lease, or its keeping, is over."""
    end = _NEVER if seconds == inf else time.time_ns() + int(seconds * 1e9)
    os.utime(path, ns=(end, end))


def _write(path: Path, text: bytes) -> None:
    """Whole or not at all, and on the disk."""
    draft = path.parents[2] / f".{uuid4().hex}"
    with draft.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
