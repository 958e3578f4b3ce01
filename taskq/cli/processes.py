"""``taskq worker --processes``: the options of a supervised worker, and the file that tells how it stands."""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec
from msgspec import Struct

from taskq.worker.generation import Plan
from taskq.worker.supervisor import State, Supervisor

_UNITS: Mapping[str, int] = {"K": 2**10, "M": 2**20, "G": 2**30}
_SIZE = re.compile(r"(\d+)([KMG])(?:i?B)?", re.IGNORECASE)
_OPTIONS = ("--processes", "--max-memory", "--gate", "--state-file")
_FLAGS = ("--preload",)


class Crew(Struct, frozen=True, kw_only=True):
    """What the command line says of processes."""

    processes: int
    max_memory: int | None
    gate: float
    preload: bool
    state_file: Path | None


def count(text: str) -> int:
    """A number of processes; an option's type."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r}: give a number of at least 1, or auto for one a core")
    return int(text)


def size(text: str) -> int:
    """Bytes; an option's type."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write 300M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def processes_options(command: Callable[..., int]) -> Callable[..., int]:
    """``--processes`` and what goes with it, as the parameter ``crew``: None for a worker without a supervisor."""

    @click.option("--processes", type=count, metavar="N|auto", help="Keep so many processes running, one a core.")
    @click.option("--max-memory", type=size, metavar="SIZE", help="Replace a process that holds more, as in 300M.")
    @click.option(
        "--gate", type=click.FloatRange(0), metavar="SECONDS", help="How long new code has to live in a rollout: 10."
    )
    @click.option("--preload", is_flag=True, help="Import the app once and fork the processes: they share its memory.")
    @click.option("--state-file", type=click.Path(path_type=Path), help="Where to tell how it stands, for rollouts.")
    @functools.wraps(command)
    def wrapped(
        processes: int | None,
        max_memory: int | None,
        gate: float | None,
        preload: bool,
        state_file: Path | None,
        **rest: Any,
    ) -> int:
        given = {
            "--max-memory": max_memory,
            "--gate": gate,
            "--preload": preload or None,
            "--state-file": state_file,
        }
        if processes is None:
            for option, value in given.items():
                if value is not None:
                    raise click.UsageError(f"{option} needs a supervisor: say --processes, too (1 is enough)")
            return command(crew=None, **rest)
        if max_memory is not None and not Path("/proc/self/statm").exists():
            raise click.UsageError("--max-memory needs a system that tells a process's memory in /proc")
        if preload and sys.platform != "linux":
            raise click.UsageError("--preload needs Linux: elsewhere a process that has imported much cannot be forked")
        crew = Crew(
            processes=processes,
            max_memory=max_memory,
            gate=gate if gate is not None else 10.0,
            preload=preload,
            state_file=state_file,
        )
        return command(crew=crew, **rest)

    return wrapped


def run_supervised(crew: Crew, arguments: Sequence[str]) -> int:
    """Keep processes of ``taskq ARGUMENTS`` running; answers the exit code."""
    plan = Plan(
        command=[sys.executable, "-m", "taskq.cli", *_without_ours(arguments)],
        processes=crew.processes,
        max_memory=crew.max_memory,
        gate=crew.gate,
        preload=crew.preload,
    )
    path = crew.state_file
    if path is None:
        return anyio.run(Supervisor(plan, tell=lambda _: None).run)
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise click.UsageError(f"--state-file {path}: its directory must exist and be writable")
    try:
        return anyio.run(Supervisor(plan, tell=functools.partial(_write, path)).run)
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, state: State) -> None:
    # Renamed into its place, so that nobody reads half of it.
    new = path.with_name(f"{path.name}.{state.pid}")
    new.write_bytes(msgspec.json.encode(state))
    new.replace(path)


def read_state(path: Path) -> State:
    """How a supervisor stands; raises UsageError when no living one tells there."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
        os.kill(state.pid, 0)
    except (OSError, msgspec.MsgspecError):
        raise click.UsageError(
            f"{path} tells of no running supervisor: start it with --processes N --state-file {path}"
        ) from None
    return state


def _without_ours(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments of one process."""
    left = iter(arguments)
    for argument in left:
        if argument in _OPTIONS:
            next(left, None)
        elif argument in _FLAGS:
            continue
        elif not argument.startswith(tuple(f"{option}=" for option in _OPTIONS)):
            yield argument
