"""Kills a task wherever it can die, runs it again as a worker would, and looks for effects that came twice or never."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from taskq.app import App
from taskq.errors import ConfigError, Signal
from taskq.job import Delivery
from taskq.outcome import Decision, Raised
from taskq.task import Task
from taskq.testing.lives import LEASE, run_delivery, settle_run
from taskq.testing.mortal import Died, Life
from taskq.testing.observers import Observer, answered
from taskq.testing.run import deferred, on_memory
from taskq.testing.stops import with_stops

_QUEUE = "check-idempotent"
_MOST_RUNS = 50
AFTER_THE_LAST = "after the last line, before the ack"

Snapshot = Mapping[str, Counter[str]]
"""Of each observer the effects it saw, each as text, with how often it is there."""


class Finding(Struct, frozen=True):
    """Effects that were not what they are without a crash."""

    places: Sequence[str]
    """Where the process died: one after another, with the same effects."""
    observer: str
    doubled: Sequence[str]
    """What was there beyond what one run brings about."""
    lost: Sequence[str]

    def __str__(self) -> str:
        more = f" (and {len(self.places) - 1} more, up to {self.places[-1]})" if len(self.places) > 1 else ""
        said = [f"    doubled in {self.observer}: {item}" for item in self.doubled]
        said += [f"    lost in {self.observer}: {item}" for item in self.lost]
        return "\n".join([f"  killed {self.places[0]}{more}, then run again:", *said])


class NotIdempotent(AssertionError):
    """The task's effects depend on where its process dies."""

    def __init__(self, task: str, findings: Sequence[Finding], places: Sequence[str]) -> None:
        self.findings = findings
        first = f"task {task} is not idempotent, as some of {len(places)} crashes show:"
        super().__init__("\n".join([first, *map(str, findings)]))


async def check_idempotent(
    task: Task[..., Any],
    *args: Any,
    observe: Iterable[Observer | Callable[[], Any]] = (),
    setup: Callable[[], Any] | None = None,
    **kwargs: Any,
) -> Sequence[str]:
    """Run the task once; then kill it at every place where it can die, run it again, and compare the effects.

    It is killed before its first line, before each of its statements, before and after each ``await``, wherever
    something it awaits waits, and after its last line but before its ack. A kill is the death of a process: no
    ``except`` and no ``finally`` runs. The next run is a worker's, with ``losses`` and what ``current()`` remembers.

    What is looked at: how the job ends, which jobs it defers, and whatever ``observe`` names: functions, or objects
    with a ``snapshot()``, such as :class:`Rows`, :class:`Files` and :class:`Requests`. Before each run those that have
    a ``reset()`` are reset and ``setup`` is called; both may be coroutine functions.

    The task's app must not be open: it is opened on ``memory://``, once for each place. Answers the places. Raises
    NotIdempotent, which tells the places and the effects; ConfigError when the world is not put back between the runs;
    and what the task raises by itself.
    """
    check = _Check(task, args, kwargs, observe, setup)
    _, expected = await check.effects()
    places: list[str] = []
    findings: list[Finding] = []
    while AFTER_THE_LAST not in places:
        place, found = await check.effects(Life(len(places)))
        places.append(place)
        _compare(places, expected, found, findings)
    await check.reset()
    if findings:
        raise NotIdempotent(task.name, findings, places)
    return places


class _Check:
    def __init__(
        self,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        observe: Iterable[Observer | Callable[[], Any]],
        setup: Callable[[], Any] | None,
    ) -> None:
        if not isinstance(task.client, App):
            raise ConfigError(f"task {task.name} belongs to no app that could be opened")
        if task.definition.transaction:
            raise ConfigError(f"task {task.name} is one transaction: what it writes there comes once by itself")
        self._app = task.client
        self._task = task
        self._call = (args, kwargs)
        self._observers = _named(observe)
        self._setup = setup
        self._untouched: Snapshot | None = None
        self._mortal = copy.copy(task)
        rewritten = with_stops(task.definition.function)
        if rewritten is not None:
            self._mortal.definition = replace(task.definition, function=rewritten, executor="loop")

    async def effects(self, life: Life | None = None) -> tuple[str, Snapshot]:
        """Where the first run of a job died, and what it and the next ones brought about until the job ended."""
        await self.reset()
        with on_memory(self._app):
            async with self._app:
                args, kwargs = self._call
                # In a queue of its own it is not mistaken for one of those it defers.
                await self._app.enqueue(self._task.options(queue=_QUEUE, delay=0.0).call(*args, **kwargs).job)
                place = "" if life is None else await self._die(life)
                for _ in range(_MOST_RUNS):
                    run, outcome = await run_delivery(self._app, await self._fetch(), self._task)
                    if life is None and isinstance(outcome, Raised) and not isinstance(outcome.error, Signal):
                        raise outcome.error
                    decision = await settle_run(self._app, run, outcome)
                    if decision.end is not None:
                        return place, await self._seen(decision)
        raise ConfigError(f"task {self._task.name} does not come to an end: it ran {_MOST_RUNS} times")

    async def _die(self, life: Life) -> str:
        delivery = await self._fetch()
        try:
            await run_delivery(self._app, delivery, self._mortal, life)
            place = AFTER_THE_LAST
        except Died as died:
            place = str(died)
        for observer in self._observers.values():
            await _call(observer, "crash")
        await self._app.backend.broker.extend([delivery.receipt], 0.0)
        return place

    async def _fetch(self) -> Delivery:
        (delivery,) = await self._app.backend.broker.fetch([_QUEUE], 1, lease=LEASE, wait=0.0)
        return delivery

    async def reset(self) -> None:
        """Put the world back, and see that it is."""
        for observer in self._observers.values():
            await _call(observer, "reset")
        if self._setup is not None:
            await answered(self._setup())
        now = await self._look()
        if self._untouched is None:
            self._untouched = now
        for name, before in self._untouched.items():
            if now[name] != before:
                raise ConfigError(
                    f"{name} is not as it was before the first run: give a setup= that puts everything back"
                )

    async def _look(self) -> Snapshot:
        # Counted at once: what an observer answers may be the very list that goes on changing.
        return {name: _items(await answered(_snapshot(observer))) for name, observer in self._observers.items()}

    async def _seen(self, decision: Decision) -> Snapshot:
        jobs = [(job.task, dict(job.arguments)) for job in await deferred(self._app)]
        # A run that finds everything done may say so in either way.
        went_well = decision.end in ("returned", "discarded")
        end = "went well" if went_well else f"{decision.end} {decision.reason}".strip()
        return {**await self._look(), "jobs": _items(jobs), "end": _items([end])}


def _named(observe: Iterable[Observer | Callable[[], Any]]) -> Mapping[str, Any]:
    named: dict[str, Any] = {}
    for observer in observe:
        kind = getattr(observer, "__qualname__", type(observer).__qualname__)
        name = kind if kind not in named else f"{kind} {len(named) + 1}"
        named[name] = observer
    return named


def _snapshot(observer: Any) -> Any:
    return observer.snapshot() if hasattr(observer, "snapshot") else observer()


async def _call(observer: Any, name: str) -> None:
    if hasattr(observer, name):
        await answered(getattr(observer, name)())


def _compare(places: Sequence[str], expected: Snapshot, found: Snapshot, findings: list[Finding]) -> None:
    """Add what is not as expected at the last place; what was so at the place before, too, is one finding."""
    for name, wanted in expected.items():
        finding = Finding(
            places[-1:], name, list((found[name] - wanted).elements()), list((wanted - found[name]).elements())
        )
        if not finding.doubled and not finding.lost:
            continue
        for index, before in enumerate(findings):
            if replace(before, places=finding.places) == finding and before.places[-1:] == places[-2:-1]:
                findings[index] = replace(before, places=[*before.places, *finding.places])
                break
        else:
            findings.append(finding)


def _items(snapshot: Any) -> Counter[str]:
    if isinstance(snapshot, Mapping):
        pairs = cast("Mapping[object, object]", snapshot)
        return Counter(f"{key!r}: {value!r}" for key, value in pairs.items())
    if isinstance(snapshot, Iterable) and not isinstance(snapshot, str | bytes):
        return Counter(map(repr, cast("Iterable[object]", snapshot)))
    return Counter([repr(snapshot)])
