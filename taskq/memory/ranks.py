"""Keys by rank: the one structure behind due moments, lease ends, ready jobs and everything that lapses."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Order = tuple[int, float, int]
K = TypeVar("K")
R = TypeVar("R", float, Order)


class Ranks(Generic[K, R]):
    """Keys, lowest rank first; a key can be ranked anew or dropped at any time.

    A heap in which an entry that is not its key's rank any more is passed over. Such entries never outnumber the
    keys by more than a few, so a key that is ranked anew for ever costs no memory.
    """

    __slots__ = ("_heap", "_ranks", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[R, int, K]] = []
        self._ranks: dict[K, R] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: K) -> bool:
        return key in self._ranks

    def __iter__(self) -> Iterator[K]:
        return iter(self._ranks)

    def rank(self, key: K) -> R | None:
        return self._ranks.get(key)

    def put(self, key: K, rank: R) -> None:
        self._ranks[key] = rank
        self._serial += 1
        heappush(self._heap, (rank, self._serial, key))
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [(rank, serial, key) for serial, (key, rank) in enumerate(self._ranks.items())]
            heapify(self._heap)

    def drop(self, key: K) -> bool:
        """Forget the key; False if it was not there."""
        if self._ranks.pop(key, None) is None:
            return False
        if not self._ranks:
            self._heap.clear()
        return True

    def first(self) -> tuple[R, K] | None:
        """The lowest rank and its key."""
        while self._heap:
            rank, _, key = self._heap[0]
            if self._ranks.get(key) == rank:
                return rank, key
            heappop(self._heap)
        return None

    def pop(self) -> K | None:
        """Take the key of the lowest rank."""
        while self._heap:
            rank, _, key = heappop(self._heap)
            if self._ranks.get(key) == rank:
                del self._ranks[key]
                return key
        return None

    def up_to(self, rank: R) -> Iterator[K]:
        """Take every key of at most this rank, lowest first."""
        while (first := self.first()) and first[0] <= rank:
            heappop(self._heap)
            del self._ranks[first[1]]
            yield first[1]
