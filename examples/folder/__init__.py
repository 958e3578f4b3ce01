"""The smallest backend there is: a queue is a folder, a job is a file, and its state is the file's name.

``names.py`` says what a name tells, ``shelf.py`` moves files, ``broker.py`` makes four verbs of that. What it cannot do
it does not declare. It passes the contract in ``tests/contract/test_folder.py``.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from examples.folder.broker import FolderBroker
from examples.folder.shelf import Shelf
from taskq.broker import Backend, Extender

__all__ = ["connect"]


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[Backend]:
    """The queues in the folder of ``folder:///path``, which is made if need be."""
    broker = FolderBroker(Shelf(Path(url.removeprefix("folder://"))))

    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        # Another thread's loop may use the same object: all it keeps is in files.
        yield broker

    try:
        yield Backend(broker=broker, extender=extender)
    finally:
        broker.close()
