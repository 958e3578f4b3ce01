"""A place for large calls, as somebody else's package would bring one: a directory, a file for each."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from taskq.errors import BrokerUnavailable
from taskq.payloads import Payloads

SHUT = "shut"
"""While there is a file of this name, nothing can be had."""


class Cupboard:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, name: str, body: bytes, *, keep: float) -> None:
        assert keep > 0
        self._file(name).write_bytes(body)

    async def get(self, name: str) -> bytes | None:
        file = self._file(name)
        return file.read_bytes() if file.exists() else None

    async def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if (self._directory / SHUT).exists():
            raise BrokerUnavailable("the cupboard is shut")
        return self._directory / name


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[Payloads]:
    yield Cupboard(Path(url.partition("://")[2]))
