"""The fetches of this process that wait: each is woken, or handed a job that came with the message."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from taskq.job import Delivery


class Wish:
    """A fetch that waits, with room for so many jobs."""

    __slots__ = ("_handed", "_room", "_told")

    def __init__(self, room: int) -> None:
        self._room = room
        self._handed: list[Delivery] = []
        self._told = asyncio.Event()

    def tell(self) -> None:
        """There may be something."""
        self._told.set()

    def hand(self, delivery: Delivery) -> bool:
        """Whether there is room for it."""
        if len(self._handed) >= self._room:
            return False
        self._handed.append(delivery)
        self._told.set()
        return True

    def take(self, room: int) -> list[Delivery]:
        """What it was handed, as far as there is room."""
        taken, self._handed = self._handed[:room], self._handed[room:]
        return taken

    def look(self) -> None:
        """What is told from now on is news."""
        self._told.clear()

    async def told(self) -> None:
        """Return when there may be something, or is."""
        await self._told.wait()


class Wishes:
    """All that wait, by their queues."""

    def __init__(self) -> None:
        self._by_queue: dict[str, set[Wish]] = defaultdict(set)
        self.pass_on: Callable[[Sequence[Delivery]], None] = lambda _: None
        """Gets the jobs that nobody waits for any more."""

    @contextmanager
    def waiting(self, queues: Sequence[str], room: int) -> Generator[Wish]:
        """A wish for jobs of these queues; what it did not take when it ends is passed on."""
        wish = Wish(room)
        for queue in queues:
            self._by_queue[queue].add(wish)
        try:
            yield wish
        finally:
            for queue in queues:
                self._by_queue[queue].discard(wish)
                if not self._by_queue[queue]:
                    del self._by_queue[queue]
            if left := wish.take(room):
                self.pass_on(left)

    def tell(self, queue: str) -> None:
        """There may be something in this queue."""
        for wish in self._by_queue.get(queue, ()):
            wish.tell()

    def tell_all(self) -> None:
        for queue in self._by_queue:
            self.tell(queue)

    def hand(self, delivery: Delivery) -> None:
        """To the first that has room."""
        if not any(wish.hand(delivery) for wish in self._by_queue.get(delivery.job.queue, ())):
            self.pass_on([delivery])
