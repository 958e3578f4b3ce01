"""The names of everything that is stored: all of a queue's partition, and all of a store key, under one hash tag."""

from collections.abc import Sequence
from zlib import crc32

from taskq.errors import BrokerRejected
from taskq.job import Job

NAMES = (
    *("row", "call", "ready", "later", "leased", "dead", "unique", "parked", "places"),
    *("shown", "error", "letter", "outcome", "kept", "ended", "waiting", "keeper", "watched", "latest", "lapsed"),
)
"""What each partition of a queue has, in the order in which its scripts take it."""

_PLAIN = ("row", "call", "ready", "outcome", "kept", "ended", "waiting")
_LONE = [NAMES.index(name) for name in (*_PLAIN, "keeper", "later", "leased")]

_REMEMBERED = 10_000


class Keys:
    """The keys of one namespace. Neither ``:`` nor ``/`` is in a namespace, so no two names are the same key.

    The first partition of a queue is called as the queue, so that a queue can be split while it holds jobs; the others
    are called ``queue#1`` and so on, as no queue may be.
    """

    def __init__(self, namespace: str, partitions: int = 1) -> None:
        self._namespace = namespace
        self.count = partitions
        self._queues: dict[str, list[bytes]] = {}
        self._lone: dict[str, list[bytes]] = {}

    def partitions(self, queue: str) -> list[str]:
        """The names of a queue's partitions."""
        return [queue, *(f"{queue}#{number}" for number in range(1, self.count))]

    def partition(self, job: Job) -> str:
        """Where a job belongs: members of a group meet there, rivals for a unique key, and of the rest equal ids."""
        if self.count == 1:
            return job.queue
        number = crc32((job.group or job.unique or job.id).encode()) % self.count
        return f"{job.queue}#{number}" if number else job.queue

    def queue(self, queue: str) -> list[bytes]:
        """What the scripts of a queue take, or of one partition of it."""
        found = self._queues.get(queue)
        if found is None:
            if len(self._queues) >= _REMEMBERED:
                self._queues.clear()
                self._lone.clear()
            tag = f"{{{self._namespace}:{queue}}}:"
            found = self._queues[queue] = [encoded(f"{tag}{name}") for name in NAMES]
        return found

    def plain(self, queue: str) -> list[bytes]:
        """What the script for plain jobs takes."""
        return self.lone(queue)[: len(_PLAIN)]

    def lone(self, queue: str) -> list[bytes]:
        """What the script for a plain job that comes by itself takes."""
        found = self._lone.get(queue)
        if found is None:
            keys = self.queue(queue)
            found = self._lone[queue] = [keys[at] for at in _LONE]
        return found

    def one(self, queue: str, name: str) -> bytes:
        """One of them."""
        return self.queue(queue)[NAMES.index(name)]

    def queues(self, queues: Sequence[str]) -> list[bytes]:
        """The same of several queues, one after the other."""
        return [key for queue in queues for key in self.queue(queue)]

    def entry(self, key: str) -> list[bytes]:
        """What the scripts of the store take."""
        return [encoded(f"{{{self._namespace}/{key}}}:{name}") for name in ("held", "members", "gone")]

    @property
    def rows(self) -> bytes:
        """A pattern that matches the row key of every queue that holds a job."""
        return f"{{{self._namespace}:*}}:row".encode()

    def queue_of(self, row: bytes) -> str:
        """The queue of a row key."""
        return row.decode()[len(self._namespace) + 2 : -len("}:row")].partition("#")[0]

    def channel(self, channel: str) -> bytes:
        """Where hints of a channel are told."""
        return encoded(f"{self._namespace}:hint:{channel}")

    def own_channel(self, token: str, *, clustered: bool) -> bytes:
        """Where one process is told what it waits for; the scripts know by the name who counts its listeners."""
        return f"{self._namespace}:{'cast' if clustered else 'wake'}:{token}".encode()


def encoded(text: str) -> bytes:
    """Text as it is sent. Raises BrokerRejected for what is not valid Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BrokerRejected(f"{text!r} is not valid Unicode and cannot be stored") from error
