"""What the store of this backend has that others have not."""

import pytest
from taskq_postgres import connect

from taskq.job import Ack
from taskq.testing.deployment import a_job, add, take
from tests.backends.postgres.conftest import again, plain
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


async def test_what_was_discarded_and_settled_survives_a_crash(own: Process) -> None:
    async with plain(own.url) as direct:
        # What nobody waits for would not be written down for so long.
        await direct.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        await direct.execute("SELECT pg_reload_conf()")
    async with connect(own.url, migrate=True) as backend:
        store, discard_and_settle = backend.store, backend.discard_and_settle
        assert store is not None
        assert discard_and_settle is not None
        await store.swap("k", None, b"1")
        await store.add("k", ["a", "b"])
        await add(backend.broker, a_job("q", "a"))
        (delivery,) = await take(backend.broker, "q", 1)
        assert await discard_and_settle("k", ["a"], [Ack(delivery.receipt)]) == [True]
        own.kill()
        own.start()
        await again(lambda: store.get("k"))
        assert (await store.get("k")).members == {"b"}
        await store.add("k", ["a"])
        assert (await store.get("k")).members == {"b"}
        assert await backend.broker.settle([Ack(delivery.receipt)]) == [False]
