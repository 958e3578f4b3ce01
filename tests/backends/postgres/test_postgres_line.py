"""A fetch leaves what it leases in its line, as long as few leases stand there: a claim then changes no index."""

from typing import TypeAlias

import asyncpg
import pytest
from taskq_postgres import migrate, queries
from taskq_postgres.verbs import Verbs

from taskq.job import Delivery, Lease
from taskq.testing.deployment import a_job, names, wait_until

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.anyio


class Line:
    """A queue of forty jobs."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        self.schema = schema
        self.verbs = Verbs(queries.load(schema), 1 << 20, 0)

    async def fetch(self, limit: int, lease: float = 60) -> list[Delivery]:
        """Fetch from the start."""
        return (await self.verbs.fetch(self.connection, ["q"], limit, lease, None)).deliveries

    async def standing(self) -> int:
        """How many leases stand in the line."""
        count: int = await self.connection.fetchval(
            f"SELECT count(*) FROM {self.schema}.jobs WHERE state = 'ready' AND held_until IS NOT NULL"  # noqa: S608
        )
        return count


@pytest.fixture
async def line(direct: Connection, schema: str) -> Line:
    await migrate.apply(direct, schema)
    line = Line(direct, schema)
    await line.verbs.enqueue(direct, [a_job("q", f"{n:02}", body=b"x" * 100) for n in range(40)], tells=False)
    return line


async def test_a_claim_changes_no_index(line: Line) -> None:
    async with line.connection.transaction():
        assert len(await line.fetch(20)) == len(await line.fetch(20)) == 20
        changed = await line.connection.fetchval(
            "SELECT pg_stat_get_xact_tuples_hot_updated($1::regclass)", f"{line.schema}.jobs"
        )
    assert (changed, await line.standing()) == (40, 40)


async def test_who_passes_over_many_leases_takes_its_own_out_of_the_line(line: Line) -> None:
    for _ in range(40):
        assert len(await line.fetch(1)) == 1
    assert 0 < await line.standing() < 10


async def test_an_extended_lease_has_left_the_line(line: Line) -> None:
    receipts = [delivery.receipt for delivery in await line.fetch(20)]
    assert await line.verbs.extend(line.connection, receipts[:15], 60) == [Lease.HELD] * 15
    assert await line.standing() == 5
    assert len(await line.fetch(40)) == 20


async def test_a_lease_that_ends_is_found_where_it_stands_and_where_it_went(line: Line) -> None:
    assert len(await line.fetch(34)) == 34
    lost = await line.fetch(6, lease=0.01)
    await line.verbs.extend(line.connection, [lost[0].receipt], 0.01)
    got: list[Delivery] = []

    async def all_came() -> bool:
        got.extend(await line.fetch(40))
        return len(got) == 6

    await wait_until(all_came)
    assert sorted(names(got)) == names(lost)
    assert {(again.losses, again.fence) for again in got} == {(1, 2)}
    # Each was due again when its lease had ended, and not before.
    assert all(again.due > lost[0].now for again in got)
