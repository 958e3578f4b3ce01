"""The ready jobs of every queue, in order, and the groups and tenants that hold some of them back."""

from collections.abc import Iterator
from math import inf

from taskq.memory.ranks import Order, Ranks
from taskq.memory.row import Row

GroupRef = tuple[str, str, str]
"""A queue, what kind of group it is, and its name."""


class _Group:
    """The places of one group that are taken, and who waits for one.

    A queue's line shows a fetch only the best member that may be leased now, so those that wait cost it nothing.
    A tenant is a group with places for all whose members take turns: the next one shown stands behind all others.
    """

    __slots__ = ("places", "shown", "takes_turns", "waiting")

    def __init__(self, *, takes_turns: bool) -> None:
        self.places = 0
        self.shown: Row | None = None
        self.takes_turns = takes_turns
        self.waiting: dict[float, Ranks[Row, Order]] = {}
        """By their ``group_limit``, so that the best one that may go is always at a head."""

    def wait(self, row: Row) -> None:
        limit = self._limit(row)
        waiting = self.waiting.get(limit)
        if waiting is None:
            waiting = self.waiting[limit] = Ranks()
        waiting.put(row, _order(row))

    def leave(self, row: Row) -> None:
        limit = self._limit(row)
        waiting = self.waiting.get(limit)
        if waiting is not None:
            waiting.drop(row)
            if not waiting:
                del self.waiting[limit]
        if self.shown is row:
            self.shown = None

    def keeps(self, shown: Row) -> bool:
        """Whose turn it is keeps it, unless a job of larger priority has come."""
        if not self.takes_turns:
            return False
        best = self.best()
        return best is None or best.job.priority <= shown.job.priority

    def _limit(self, row: Row) -> float:
        return inf if self.takes_turns else row.job.group_limit

    def best(self) -> Row | None:
        """The first of those who may be leased now."""
        heads = [waiting.first() for limit, waiting in self.waiting.items() if limit > self.places]
        return min((head for head in heads if head is not None), default=(None, None))[1]


class Groups:
    """Ready rows: ``pop`` gives the best that may be leased."""

    def __init__(self, serial: Iterator[int]) -> None:
        self._lines: dict[str, Ranks[Row, Order]] = {}
        self._groups: dict[GroupRef, _Group] = {}
        self._serial = serial

    def __len__(self) -> int:
        return len(self._lines) + len(self._groups)

    def ready(self, row: Row, now: float) -> None:
        """Put a due row in its line."""
        # A cancelled job will not run, so it needs no place; one that has started in order still holds its own.
        if not _is_grouped(row) or row.placed or row.cancelled:
            self._line(row.job.queue).put(row, _order(row))
            return
        group = self._group(row)
        group.wait(row)
        self._show(row, group, now)

    def pop(self, queue: str, now: float) -> Row | None:
        """Take the best row of a queue, and its place in its group."""
        line = self._lines.get(queue)
        if line is None:
            return None
        row = line.pop()
        if not line:
            del self._lines[queue]
        if row is not None and _is_grouped(row):
            group = self._group(row)
            if group.shown is row:
                group.shown = None
            if not group.takes_turns and not row.placed and not row.cancelled:
                row.placed = True
                group.places += 1
            self._show(row, group, now)
        return row

    def withdraw(self, row: Row, now: float) -> None:
        """Take the row out of the line, if it stands in one."""
        queue = row.job.queue
        line = self._lines.get(queue)
        if line is not None:
            line.drop(row)
            if not line:
                del self._lines[queue]
        if not _is_grouped(row):
            return
        group = self._group(row)
        group.leave(row)
        self._show(row, group, now)

    def release(self, row: Row, now: float) -> None:
        """Give up the row's place in its group, if it holds one."""
        if row.placed:
            row.placed = False
            group = self._group(row)
            group.places -= 1
            self._show(row, group, now)

    def retake(self, row: Row, now: float) -> bool:
        """Take a lapsed row out of the line again; False where its place has gone to another."""
        if row.until > now:
            return True
        if row.job.group is not None and not row.placed and not row.cancelled:
            group = self._group(row)
            if group.places >= row.job.group_limit:
                return False
            row.placed = True
            group.places += 1
        self.withdraw(row, now)
        return True

    def _show(self, row: Row, group: _Group, now: float) -> None:
        """Let the line show the best member of the row's group that may be leased now."""
        line = self._line(row.job.queue)
        if group.shown is None or not group.keeps(group.shown):
            if group.shown is not None:
                line.drop(group.shown)
                group.wait(group.shown)
                group.shown = None
            best = group.best()
            if best is not None:
                group.leave(best)
                group.shown = best
                # Behind all that stands in the line.
                turn = (-best.job.priority, now, next(self._serial)) if group.takes_turns else _order(best)
                line.put(best, turn)
        if not line:
            del self._lines[row.job.queue]
        if not group.places and group.shown is None and not group.waiting:
            del self._groups[_group_ref(row)]

    def _line(self, queue: str) -> Ranks[Row, Order]:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Ranks()
        return line

    def _group(self, row: Row) -> _Group:
        ref = _group_ref(row)
        group = self._groups.get(ref)
        if group is None:
            group = self._groups[ref] = _Group(takes_turns=row.job.group is None)
        return group


def _order(row: Row) -> Order:
    return (-row.job.priority, row.due, row.serial)


def _is_grouped(row: Row) -> bool:
    return row.job.group is not None or row.job.tenant is not None


def _group_ref(row: Row) -> GroupRef:
    job = row.job
    return (job.queue, "group", job.group) if job.group is not None else (job.queue, "tenant", job.tenant or "")
