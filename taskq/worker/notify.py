"""Tells whoever started this process how it is, in systemd's words, and hears it: systemd and our own supervisor.

The protocol is sd_notify(3): a datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names.
"""

import os
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

SOCKET = "NOTIFY_SOCKET"
GRACE = "X_TASKQ_GRACE"
"""Seconds this process may take to end once it is asked to: for our supervisor, which hears it at the start."""


def notify(**fields: object) -> None:
    """Tell ``READY=1`` and the like; nobody listens in a process that nobody supervises, and that is fine."""
    address = os.environ.get(SOCKET)
    if not address:
        return
    lines = "\n".join(f"{name}={value}" for name, value in {"MAINPID": os.getpid(), **fields}.items())
    # A listener that has gone away is no reason for a worker to stop.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(lines.encode(), f"\0{address[1:]}" if address[0] == "@" else address)


def notify_stopping(patience: float) -> None:
    """Tell that this process ends within so many seconds; a unit whose ``TimeoutStopSec`` is shorter waits for them."""
    notify(STOPPING=1, EXTEND_TIMEOUT_USEC=round(patience * 1e6))


@asynccontextmanager
async def listening() -> AsyncGenerator[tuple[str, AsyncIterator[Mapping[str, str]]]]:
    """A socket's name for ``NOTIFY_SOCKET``, and what is told there."""
    with tempfile.TemporaryDirectory(prefix="taskq-") as directory:
        path = Path(directory, "notify")
        async with await anyio.create_unix_datagram_socket(local_path=path) as receiver:

            async def heard() -> AsyncIterator[Mapping[str, str]]:
                async for data, _ in receiver:
                    lines = data.decode(errors="replace").splitlines()
                    yield {name: value for name, _, value in (line.partition("=") for line in lines)}

            yield str(path), heard()
