"""The backend that the documentation writes keeps what it declares."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.folder import connect
from taskq.broker import Backend
from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment


class TestFolderBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, tmp_path: Path) -> Deployment:
        root = tmp_path / "queues"

        async def residue() -> set[str]:
            return {str(path) for path in root.rglob("*") if path.is_file() and path.name != ".lock"}

        async def restart() -> None:
            """All that is kept is in files, and nothing runs that could be killed."""

        @asynccontextmanager
        async def sever(_backend: Backend) -> AsyncGenerator[None]:
            aside = root.rename(tmp_path / "aside")
            try:
                yield
            finally:
                aside.rename(root)

        return Deployment(
            open=lambda: connect(f"folder://{root}"),
            residue=residue,
            restart=restart,
            sever=sever,
            driver_errors=(OSError,),
        )
