"""The live view: three tables that are read anew each second, and keys that act on the row under the cursor."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from msgspec import Struct
from textual.app import App as Screen
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Header, Label

from taskq.app import App
from taskq.broker import QueueStats, Record
from taskq.cli.audit import noted
from taskq.cli.durations import readable
from taskq.cli.output import one_line
from taskq.cli.record import trouble_of
from taskq.cli.stats import TITLES as QUEUE_TITLES
from taskq.cli.stats import row as queue_row
from taskq.cli.workers import TITLES as WORKER_TITLES
from taskq.cli.workers import row as worker_row
from taskq.errors import TaskqError
from taskq.job import JobRef
from taskq.worker.control import Paused, paused_queues
from taskq.worker.register import Entry, Order, RunningJob, ask
from taskq.worker.register import workers as present_workers

EVERY = 1.0
DEAD_SHOWN = 50

Action = Callable[[App], Awaitable[object]]


class Table(DataTable[str]):
    """Of text."""


class View(Struct, frozen=True):
    """What is shown."""

    queues: Sequence[QueueStats]
    paused: Paused
    workers: Sequence[Entry]
    dead: Sequence[Record]

    @property
    def running(self) -> Sequence[RunningJob]:
        """The jobs in the workers' hands, the longest-running first."""
        return sorted((job for entry in self.workers for job in entry.jobs), key=lambda job: -job.seconds)


async def look(app: App) -> View:
    """All of it, in a few round trips."""
    backend, queues = app.backend, await app.admin.stats()
    paused = await paused_queues(backend.store) if backend.store is not None else {}
    silent = [queue for queue in paused if queue not in {one.queue for one in queues}]
    queues = [*queues, *(await app.admin.stats(silent) if silent else ())]
    entries = await present_workers(backend.store, backend.hints) if backend.store is not None else ()
    dead = [
        record
        for queue in queues
        if queue.dead
        for record in await app.admin.list_jobs(queue.queue, "dead", after=None, limit=DEAD_SHOWN)
    ]
    return View(queues, paused, entries, dead)


class Live(Screen[TaskqError]):
    """The screen."""

    TITLE = "taskq top"
    CSS = "Label { text-style: bold; padding: 1 0 0 0; } DataTable { height: auto; max-height: 40%; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "act('p')", "Pause or resume the queue"),
        Binding("w", "act('w')", "Quiet or resume the worker"),
        Binding("c", "act('c')", "Cancel the job"),
        Binding("r", "act('r')", "Revive the dead letter"),
    ]

    def __init__(self, url: str | None, by: str) -> None:
        super().__init__()
        self._url = url
        self._by = by
        self._asked: asyncio.Queue[Action] = asyncio.Queue()
        self._view = View((), {}, (), ())

    def compose(self) -> ComposeResult:
        """Four tables under one another."""
        yield Header(show_clock=True)
        for name, titles in (
            ("queues", QUEUE_TITLES),
            ("workers", WORKER_TITLES),
            ("running", ("job", "task", "queue", "attempt", "runs for")),
            ("dead", ("dead letter", "task", "queue", "error")),
        ):
            yield Label(name)
            table = Table(id=name, cursor_type="row", zebra_stripes=True)
            table.add_columns(*(title or " " for title in titles))
            yield table
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.run_worker(self._watch(), exit_on_error=False)

    async def _watch(self) -> None:
        """One task has the broker, looks, and acts: what was asked for is seen with the next look."""
        try:
            async with App(self._url) as app:
                while True:
                    self._view = await look(app)
                    self._show(self._view)
                    try:
                        action = await asyncio.wait_for(self._asked.get(), EVERY)
                    except TimeoutError:
                        continue
                    await action(app)
        except TaskqError as error:
            self.exit(error)

    def _show(self, view: View) -> None:
        self._fill("queues", {one.queue: queue_row(one, view.paused) for one in view.queues})
        self._fill("workers", {entry.id: worker_row(entry) for entry in view.workers})
        self._fill("running", {
            f"{job.queue}/{job.id}": (job.id, job.task, job.queue, job.attempt, readable(job.seconds))
            for job in view.running
        })  # fmt: skip
        self._fill("dead", {
            f"{one.job.queue}/{one.job.id}": (one.job.id, one.job.task, one.job.queue, trouble_of(one))
            for one in view.dead
        })  # fmt: skip

    def _fill(self, name: str, rows: dict[str, Sequence[object]]) -> None:
        """Write the rows, and leave the cursor on the row it was on, if that is still there."""
        table = self.query_one(f"#{name}", Table)
        before = self._key_under_cursor(table)
        table.clear()
        for key, cells in rows.items():
            table.add_row(*(one_line(str(cell)) for cell in cells), key=key)
        if before in rows:
            table.move_cursor(row=list(rows).index(before))

    @staticmethod
    def _key_under_cursor(table: Table) -> str:
        if not table.row_count:
            return ""
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or ""

    def action_act(self, key: str) -> None:
        """Do to the row under the cursor what its table's key says; in another table the key says nothing."""
        for table in self.query(Table):
            if table is self.focused and (row := self._key_under_cursor(table)):
                action = self._action(key, table.id or "", row)
                if action is not None:
                    self._asked.put_nowait(action)

    def _action(self, key: str, table: str, row: str) -> Action | None:
        queue, _, job = row.partition("/")
        by = self._by
        match key, table:
            case "p", "queues" if row in self._view.paused:
                return lambda app: app.resume(row, by=by)
            case "p", "queues":
                return lambda app: app.pause(row, by=by)
            case "w", "workers":
                quiet = any(entry.id == row and entry.state == "quiet" for entry in self._view.workers)
                order: Order = "resume" if quiet else "quiet"
                return self._noting(lambda app: ask(app.store, app.backend.hints, row, order), order, f"worker {row}")
            case "c", "running":
                return self._noting(lambda app: app.cancel(JobRef(queue, job)), "cancel", f"job {job}")
            case "r", "dead":
                return self._noting(lambda app: app.admin.revive([JobRef(queue, job)]), "revive", f"dead letter {job}")
            case _:
                return None

    def _noting(self, act: Action, verb: str, what: str) -> Action:
        async def noting(app: App) -> None:
            await noted(app, verb, what, by=self._by)
            await act(app)

        return noting
