"""What an operator should know of the file: how commits reach the disk, and what kind of disk that is."""

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from taskq.broker import Doctor, Finding
from taskq_sqlite.lane import Lane
from taskq_sqlite.settings import Settings

_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "afs", "ceph", "fuse.gluster", "lustre")
_VOLATILE = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")
_ROOM = 256 << 20
"""Bytes of free disk below which an operator should know."""


def doctor(file: Path, chosen: Settings, reader: Lane) -> Doctor:
    """Examines one file."""

    def look(cursor: sqlite3.Cursor) -> Sequence[Finding]:
        mode: str = cursor.execute("PRAGMA journal_mode").fetchone()[0]
        findings = [Finding("journal", "ok" if mode == "wal" else "error", mode, "" if mode == "wal" else "use WAL")]
        findings += [_synchronous(chosen), _disk(shutil.disk_usage(file.resolve().parent).free)]
        if _MOUNTS.exists():
            findings.append(_filesystem(filesystem_of(file, _MOUNTS.read_text(errors="replace"))))
        return findings

    async def examine() -> Sequence[Finding]:
        # In the thread of the file: a remote disk may take its time.
        return await reader.run(look)

    return examine


def _disk(free: int) -> Finding:
    short = free < _ROOM
    remedy = "free some: a full disk refuses jobs" if short else ""
    return Finding("disk", "warning" if short else "ok", f"{free >> 20} MB are free", remedy)


def _synchronous(chosen: Settings) -> Finding:
    if chosen.synchronous == "full":
        return Finding("synchronous", "ok", "full: every commit waits for the disk")
    lost = "the last seconds" if chosen.synchronous == "normal" else "the file"
    message = f"{chosen.synchronous}: a crash of the machine may lose {lost}"
    return Finding("synchronous", "warning", message, "leave synchronous out of the URL to have every job on the disk")


def _filesystem(kind: str) -> Finding:
    if kind.startswith(_REMOTE):
        remedy = "put the file on a local disk, or choose PostgreSQL or Redis"
        return Finding("file system", "error", f"{kind}: its locks and shared memory are not SQLite's", remedy)
    if kind in _VOLATILE:
        return Finding("file system", "warning", f"{kind}: gone with the next boot", "put the file on a disk")
    return Finding("file system", "ok", kind)


def filesystem_of(file: Path, mounts: str) -> str:
    """The type of the file system that holds a file, from the lines of ``/proc/self/mountinfo``."""
    parts = [line.split() for line in mounts.splitlines()]
    kinds = {Path(part[4].replace(r"\040", " ")): part[part.index("-") + 1] for part in parts}
    return next((kinds[place] for place in file.resolve().parents if place in kinds), "unknown")
