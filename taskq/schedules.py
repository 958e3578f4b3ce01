"""The schedules of an app: those it was written with, and those made at run time, which the Store keeps."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar, Unpack, cast

import msgspec
from msgspec import Struct

from taskq.audit import note
from taskq.broker import Backend
from taskq.call import Call, new_id
from taskq.errors import DecodeError, InvalidSchedule, MissingCapability
from taskq.job import Enqueued, Job
from taskq.plan import Decided, State, begun, up_to_date
from taskq.schedule import Schedule, ScheduleOptions, Timetable, make_schedule, make_timetable
from taskq.store import Entry, Store
from taskq.timing import ticks

T = TypeVar("T")

INDEX = "schedules"
"""The key under which the Store keeps the schedules made at run time."""
CHANGED = "taskq:schedules"
"""The channel of hints that says that those have changed."""

_REMEMBERED = 30 * 86_400.0
"""Seconds beyond its next tick for which the state of a schedule is kept: its code may be gone for good."""
_PAUSED = 3650 * 86_400.0


class Desk(Protocol):
    """What schedules need of their app."""

    @property
    def backend(self) -> Backend: ...
    async def enqueue(self, job: Job) -> Enqueued: ...


class Listed(Struct, frozen=True):
    """A schedule, as an operator sees it."""

    schedule: Schedule
    source: Literal["code", "stored"]
    state: State
    now: float
    """The backend's clock."""

    def upcoming(self, count: int) -> Sequence[float]:
        """The next moments at which it is due."""
        return list(islice(ticks(self.schedule.timetable.timing, max(self.now, self.state.last)), count))


class Schedules:
    """``app.schedules``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.static: dict[str, Schedule] = {}
        """Those of the code and the configuration, by name."""

    def add(self, name: str, call: Call[Any], when: str | None = None, **options: Unpack[ScheduleOptions]) -> None:
        """Make a schedule part of this app: ``app.schedules.add("berlin", report.call("berlin"), "0 3 * * *")``.

        Raises InvalidSchedule when it makes no sense or its name is taken.
        """
        self.take(make_schedule(name, make_timetable(when, options), call.job))

    def take(self, schedule: Schedule) -> None:
        """Take in a schedule; raises InvalidSchedule when its name is taken."""
        if schedule.name in self.static:
            raise InvalidSchedule(f"there is a schedule named {schedule.name} already: give one of them another name=")
        self.static[schedule.name] = schedule

    async def create(
        self,
        name: str,
        call: Call[Any],
        when: str | None = None,
        *,
        replace: bool = False,
        by: str = "",
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Make a schedule at run time; every worker on this broker sees it within seconds, and keeps it until removed.

        To create what is there already changes nothing. ``by`` names who does it, here and in what follows, for
        ``taskq audit``. Raises InvalidSchedule when it makes no sense, or when another one has the name and this is
        not to ``replace`` it; MissingCapability for what the broker cannot do.
        """
        timetable = make_timetable(when, options)
        schedule = make_schedule(name, timetable, call.job)
        if name in self.static:
            raise InvalidSchedule(f"the code of this app has a schedule named {name}: choose another name")
        check_schedule(schedule, self._desk.backend)

        def put(known: Mapping[str, Schedule]) -> Mapping[str, Schedule]:
            if name in known and known[name] != schedule and not replace:
                raise InvalidSchedule(f"another schedule is named {name}: remove it, or say replace=True")
            return {**known, name: schedule}

        known = await stored(self._store)
        if put(known) != known:
            details = f"{timetable.timing.text}: {schedule.job.task}"
            await self._note("replace" if name in known else "create", name, by, details)
            await self._change_index(put)

    async def remove(self, name: str, *, by: str = "") -> bool:
        """Forget a schedule made at run time, with its history; False when there is none of this name."""
        found = name in await stored(self._store)
        if found:
            await self._note("remove", name, by)
        await self._change_index(lambda known: {other: kept for other, kept in known.items() if other != name})
        gone = not found
        while not gone:
            gone = await self._store.swap(state_key(name), (await self._store.get(state_key(name))).value, None)
        return found

    async def pause(self, name: str, *, by: str = "") -> None:
        """Let the ticks of a schedule pass until it is resumed. Raises InvalidSchedule when there is none."""
        await self._set_paused(name, paused=True, by=by)

    async def resume(self, name: str, *, by: str = "") -> None:
        """Go on with the next tick; those that passed are not made up for. Raises InvalidSchedule as above."""
        await self._set_paused(name, paused=False, by=by)

    async def run(self, name: str, *, by: str = "") -> Enqueued:
        """Enqueue a job of a schedule now, whatever its overlap says. Raises InvalidSchedule when there is none."""
        schedule = (await self.find(name)).schedule
        job = msgspec.structs.replace(schedule.job, id=f"{name}@run-{new_id()}")
        await self._note("run", name, by, job.id)
        enqueued = await self._desk.enqueue(job)

        def ran(state: State, now: float) -> State:
            noted = state.noting(Decided(now, "run", now, "by hand", by=by))
            return msgspec.structs.replace(state, jobs=state.knowing(enqueued.id), history=noted)

        await self._change_state(schedule, ran)
        return enqueued

    async def list(self) -> Sequence[Listed]:
        """Every schedule, by name."""
        known = await self._known()
        return [await self._listed(schedule) for _, schedule in sorted(known.items())]

    async def find(self, name: str) -> Listed:
        """The schedule of this name; raises InvalidSchedule when there is none."""
        known = await self._known()
        if name not in known:
            raise InvalidSchedule(f"there is no schedule {name!r} (known: {', '.join(sorted(known)) or 'none'})")
        return await self._listed(known[name])

    @property
    def _store(self) -> Store:
        store = self._desk.backend.store
        if store is None:
            raise MissingCapability("schedules need a Store, which this broker has not: pair it with a companion store")
        return store

    async def _known(self) -> Mapping[str, Schedule]:
        return {**await stored(self._store), **self.static}

    async def _listed(self, schedule: Schedule) -> Listed:
        entry = await self._store.get(state_key(schedule.name))
        source: Literal["code", "stored"] = "code" if schedule.name in self.static else "stored"
        return Listed(schedule, source, read_state(entry, schedule), entry.now)

    async def _note(self, verb: str, name: str, by: str, details: str = "") -> None:
        await note(self._store, verb, f"schedule {name}", by=by, details=details)

    async def _set_paused(self, name: str, *, paused: bool, by: str) -> None:
        listed = await self.find(name)

        def change(state: State, now: float) -> State:
            if state.paused == paused:
                return state
            noted = state.noting(Decided(now, "paused" if paused else "resumed", now, "by hand", by=by))
            return msgspec.structs.replace(state, paused=paused, last=max(state.last, now), history=noted)

        if listed.state.paused != paused:
            await self._note("pause" if paused else "resume", name, by)
            await self._change_state(listed.schedule, change)

    async def _change_state(self, schedule: Schedule, change: Callable[[State, float], State]) -> None:
        swapped = False
        while not swapped:
            entry = await self._store.get(state_key(schedule.name))
            state = change(read_state(entry, schedule), entry.now)
            swapped = await swap_state(self._store, schedule, entry, state)

    async def _change_index(self, change: Callable[[Mapping[str, Schedule]], Mapping[str, Schedule]]) -> None:
        swapped = False
        while not swapped:
            value = (await self._store.get(INDEX)).value
            changed = change(_read_index(value))
            swapped = await self._store.swap(INDEX, value, msgspec.msgpack.encode(changed) if changed else None)
        if self._desk.backend.hints is not None:
            await self._desk.backend.hints.publish(CHANGED, "")


def configured(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Timetable, Mapping[str, Any]]]:
    """Name, task, timetable and arguments of each ``[[schedules]]``; raises InvalidSchedule."""
    found: list[tuple[str, str, Timetable, Mapping[str, Any]]] = []
    for table in tables:
        # The underscore is Python's need, not that of a file.
        options = {"except_" if key == "except" else key: value for key, value in table.items()}
        task, args = options.pop("task", None), options.pop("args", {})
        name, when = options.pop("name", task), options.pop("when", None)
        if not isinstance(task, str) or not isinstance(name, str) or not isinstance(args, dict):
            raise InvalidSchedule(f"[[schedules]] {dict(table)!r}: give the name of a task, and args as a table")
        found.append((name, task, make_timetable(when, options), cast("dict[str, Any]", args)))
    return found


def lacking(schedule: Schedule, backend: Backend) -> Sequence[str]:
    """What a schedule needs and the broker has not, each with the remedy."""
    timetable = schedule.timetable
    looks = timetable.overlap != "allow" or timetable.block_while_failed
    needs = [
        (backend.store is None, "a Store"),
        (looks and backend.admin is None, "administration, to see whether earlier jobs have ended"),
        (schedule.job.group is not None and not backend.broker.traits.groups, "groups"),
    ]
    return [
        f"it needs {need}, which {type(backend.broker).__name__} has not: pair the broker with a companion store, or "
        "choose another broker"
        for lacks, need in needs
        if lacks
    ]


def check_schedule(schedule: Schedule, backend: Backend) -> None:
    """Raises MissingCapability for what a schedule needs and the broker has not."""
    for problem in lacking(schedule, backend):
        raise MissingCapability(f"schedule {schedule.name}: {problem}")


# In the Store


def state_key(name: str) -> str:
    """Where the state of a schedule is kept."""
    return f"schedule:{name}"


def read_state(entry: Entry, schedule: Schedule) -> State:
    """The state of a schedule, as its timing is now; one that was never seen begins here."""
    if entry.value is None:
        return begun(schedule, entry.now)
    return up_to_date(schedule, _decoded(entry.value, State), entry.now)


async def swap_state(store: Store, schedule: Schedule, entry: Entry, state: State) -> bool:
    """Replace what was read; False when somebody else has meanwhile."""
    following = next(ticks(schedule.timetable.timing, max(state.last, entry.now)), entry.now)
    ttl = _PAUSED if state.paused else following - entry.now + _REMEMBERED
    return await store.swap(state_key(schedule.name), entry.value, msgspec.msgpack.encode(state), ttl=ttl)


async def stored(store: Store) -> Mapping[str, Schedule]:
    """The schedules made at run time, by name."""
    return _read_index((await store.get(INDEX)).value)


def _read_index(value: bytes | None) -> Mapping[str, Schedule]:
    return {} if value is None else _decoded(value, dict[str, Schedule])


def _decoded(value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"what the Store keeps of schedules cannot be read here: {error}") from error
