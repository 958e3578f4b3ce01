"""One thread with an event loop and an open app, for callers without a loop of their own."""

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal


class Portal:
    """Opened by the first call, closed at the interpreter's exit or by :meth:`close`."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def call(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Run a coroutine function in the portal's loop and answer what it returns."""
        with self._lock:
            if self._portal is None:
                # A thread left behind by an opening that failed would keep the interpreter from exiting.
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal())
                    stack.enter_context(portal.wrap_async_context_manager(self._opened()))
                    self._stack = stack.pop_all()
                self._portal = portal
                atexit.register(self.close)
        return self._portal.call(function, *args)

    def close(self) -> None:
        """Close the app in the portal and end its thread."""
        with self._lock:
            self._portal = None
            self._stack.close()
            atexit.unregister(self.close)


def refuse_inside_a_loop() -> None:
    """Raises RuntimeError where blocking would stop an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("this would block the running event loop: await defer() or result() instead of the _sync form")
