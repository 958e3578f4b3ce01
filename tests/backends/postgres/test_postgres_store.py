"""What the store of this backend has that others have not."""

import pytest
from taskq_postgres import connect

from taskq.job import Ack
from taskq.testing.deployment import a_job, add, take
from tests.backends.postgres.conftest import again, plain
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


async def test_what_was_discarded_ahead_of_a_settlement_survives_a_crash_with_it(own: Process) -> None:
    async with plain(own.url) as direct:
        # By itself it would not be written down for so long.
        await direct.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        await direct.execute("SELECT pg_reload_conf()")
    async with connect(own.url, migrate=True) as backend:
        store, ahead = backend.store, backend.store_ahead
        assert store is not None
        assert ahead is not None
        await store.swap("k", None, b"1")
        await store.add("k", ["a", "b"])
        await add(backend.broker, a_job("q", "a"))
        (delivery,) = await take(backend.broker, "q", 1)
        assert await ahead.discard("k", ["a"]) == 1
        assert await backend.broker.settle([Ack(delivery.receipt)]) == [True]
        own.kill()
        own.start()
        await again(lambda: store.get("k"))
        assert (await store.get("k")).members == {"b"}
        await store.add("k", ["a"])
        assert (await store.get("k")).members == {"b"}
        assert await ahead.discard("k", ["b"]) == 0
