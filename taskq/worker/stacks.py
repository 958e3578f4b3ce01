"""Where code is: of a task that waits, and of a thread that runs."""

import asyncio
import sys
import traceback
from types import FrameType
from typing import Any


def stack_of(task: "asyncio.Task[Any]") -> str:
    """Where a task waits, the innermost call last. asyncio's own stack ends at the outermost coroutine."""
    frames: list[tuple[FrameType, int]] = []
    waiting: object = task.get_coro()
    while waiting is not None:
        frame = _first(waiting, "cr_frame", "gi_frame", "ag_frame")
        if isinstance(frame, FrameType):
            frames.append((frame, frame.f_lineno))
        waiting = _first(waiting, "cr_await", "gi_yieldfrom", "ag_await")
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _first(value: object, *names: str) -> object:
    return next((getattr(value, name) for name in names if hasattr(value, name)), None)


def stack_of_thread(thread: int) -> str:
    """Where a thread is, the innermost call last; may be asked from another one."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented for this
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
