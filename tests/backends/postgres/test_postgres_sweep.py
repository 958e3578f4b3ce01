"""What has lapsed is cleared up beside the work."""

from importlib import import_module
from math import inf

import asyncpg
import pytest

from taskq.testing.deployment import wait_until
from tests.backends.postgres.conftest import Opener


@pytest.mark.anyio
async def test_what_has_lapsed_is_swept_portion_after_portion_until_nothing_is_left(
    opened: Opener, direct: "asyncpg.Connection[asyncpg.Record]", schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened():
        await direct.execute(
            f"INSERT INTO {schema}.ended (queue, id, outcome_until, id_until, lapses_at)"  # noqa: S608
            " SELECT 'q', n::text, 0, 0, 0 FROM generate_series(1, 2500) AS n"
        )
    monkeypatch.setattr(import_module("taskq_postgres.connect"), "_SWEEP", inf)
    async with opened() as backend:

        async def nothing_left() -> bool:
            await backend.broker.fetch(["q"], 1, lease=1, wait=0)
            return not await direct.fetchval(f"SELECT count(*) FROM {schema}.ended")  # noqa: S608

        await wait_until(nothing_left)
