"""The ready jobs of every queue, in order, and the groups that hold some of them back."""

from taskq.memory.ranks import Order, Ranks
from taskq.memory.row import Ref, Row


class _Group:
    """The places of one group that are taken, and who waits for one.

    A queue's line shows a fetch only the best member that may be leased now, so those that wait cost it nothing.
    """

    __slots__ = ("places", "shown", "waiting")

    def __init__(self) -> None:
        self.places = 0
        self.shown: Row | None = None
        self.waiting: dict[int, Ranks[Row, Order]] = {}
        """By their ``group_limit``, so that the best one that may go is always at a head."""

    def wait(self, row: Row) -> None:
        waiting = self.waiting.get(row.job.group_limit)
        if waiting is None:
            waiting = self.waiting[row.job.group_limit] = Ranks()
        waiting.put(row, _order(row))

    def leave(self, row: Row) -> None:
        waiting = self.waiting.get(row.job.group_limit)
        if waiting is not None:
            waiting.drop(row)
            if not waiting:
                del self.waiting[row.job.group_limit]
        if self.shown is row:
            self.shown = None

    def best(self) -> Row | None:
        """The first of those who may be leased now."""
        heads = [waiting.first() for limit, waiting in self.waiting.items() if limit > self.places]
        return min((head for head in heads if head is not None), default=(None, None))[1]


class Groups:
    """Ready rows: ``pop`` gives the best that may be leased."""

    def __init__(self) -> None:
        self._lines: dict[str, Ranks[Row, Order]] = {}
        self._groups: dict[Ref, _Group] = {}

    def __len__(self) -> int:
        return len(self._lines) + len(self._groups)

    def ready(self, row: Row) -> None:
        """Put a due row in its line."""
        # A cancelled job will not run, so it needs no place; one that has started in order still holds its own.
        if row.job.group is None or row.placed or row.cancelled:
            self._line(row.job.queue).put(row, _order(row))
            return
        group = self._group(row)
        group.wait(row)
        self._show(row, group)

    def pop(self, queue: str) -> Row | None:
        """Take the best row of a queue, and its place in its group."""
        line = self._lines.get(queue)
        if line is None:
            return None
        row = line.pop()
        if not line:
            del self._lines[queue]
        if row is not None and row.job.group is not None:
            group = self._group(row)
            if group.shown is row:
                group.shown = None
            if not row.placed and not row.cancelled:
                row.placed = True
                group.places += 1
            self._show(row, group)
        return row

    def withdraw(self, row: Row) -> None:
        """Take the row out of the line, if it stands in one."""
        queue = row.job.queue
        line = self._lines.get(queue)
        if line is not None:
            line.drop(row)
            if not line:
                del self._lines[queue]
        if row.job.group is None:
            return
        group = self._group(row)
        group.leave(row)
        self._show(row, group)

    def release(self, row: Row) -> None:
        """Give up the row's place in its group, if it holds one."""
        if row.placed:
            row.placed = False
            group = self._group(row)
            group.places -= 1
            self._show(row, group)

    def retake(self, row: Row, *, lapsed: bool) -> bool:
        """Take a lapsed row out of the line again; False where its place has gone to another."""
        if not lapsed:
            return True
        if row.job.group is not None and not row.placed and not row.cancelled:
            group = self._group(row)
            if group.places >= row.job.group_limit:
                return False
            row.placed = True
            group.places += 1
        self.withdraw(row)
        return True

    def _show(self, row: Row, group: _Group) -> None:
        """Let the line show the best member of the row's group that may be leased now."""
        line = self._line(row.job.queue)
        if group.shown is not None:
            line.drop(group.shown)
            group.wait(group.shown)
            group.shown = None
        best = group.best()
        if best is not None:
            group.leave(best)
            group.shown = best
            line.put(best, _order(best))
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
            group = self._groups[ref] = _Group()
        return group


def _order(row: Row) -> Order:
    return (-row.job.priority, row.due, row.serial)


def _group_ref(row: Row) -> Ref:
    return (row.job.queue, row.job.group or "")
