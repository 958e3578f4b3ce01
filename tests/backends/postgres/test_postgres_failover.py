"""A standby takes over: who worked on the lost primary finds it, and does not go back when the old one returns."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.errors import BrokerUnavailable
from taskq.job import Ack
from taskq.testing.deployment import SOON, a_job, add, names, take, wait_until
from tests.backends.postgres.conftest import again, plain, terminate
from tests.servers import postgres as postgresql
from tests.servers.process import Process
from tests.servers.proxy import proxied

pytestmark = pytest.mark.anyio


async def test_a_promoted_standby_is_found_by_those_who_worked_on_the_lost_primary(own: Process) -> None:
    with postgresql.standby(own) as standby:
        both = f"127.0.0.1:{own.port},127.0.0.1:{standby.port}"
        async with plain(own.url) as direct:
            await direct.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await direct.execute("SELECT pg_reload_conf()")
        async with (
            proxied(own.port) as (proxy, port),
            connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", migrate=True) as backend,
            connect(f"postgresql://postgres@{both}/postgres?target_session_attrs=read-write") as by_hosts,
        ):
            await add(backend.broker, *(a_job("q", f"{n:02}") for n in range(30)))
            leased = await take(backend.broker, "q", 5)
            own.kill()
            proxy.switch(standby.port)
            # It takes no writes yet.
            with pytest.raises(BrokerUnavailable):
                await backend.broker.enqueue([a_job("q", "refused")])
            async with plain(standby.url) as direct:
                assert await direct.fetchval("SELECT pg_promote()")
            with anyio.fail_after(SOON):
                await again(lambda: backend.broker.extend([delivery.receipt for delivery in leased], 60))
            assert list(await backend.broker.settle([Ack(delivery.receipt) for delivery in leased])) == [True] * 5
            assert names(await take(backend.broker, "q", 25)) == [f"{n:02}" for n in range(5, 30)]
            await again(lambda: by_hosts.broker.enqueue([a_job("q", "by-hosts")]))
            assert names(await take(backend.broker, "q")) == ["by-hosts"]


async def test_an_old_primary_that_returns_beside_its_successor_is_left_alone(own: Process) -> None:
    with postgresql.standby(own) as standby:
        both = f"127.0.0.1:{own.port},127.0.0.1:{standby.port}"
        async with (
            proxied(own.port) as (proxy, port),
            connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", migrate=True) as behind,
            connect(f"postgresql://postgres@{both}/postgres?target_session_attrs=read-write") as by_hosts,
        ):
            await copied(standby)
            own.kill()
            proxy.switch(standby.port)
            async with plain(standby.url) as direct:
                assert await direct.fetchval("SELECT pg_promote()")
            await again(lambda: behind.broker.enqueue([a_job("q", "behind")]))
            await again(lambda: by_hosts.broker.enqueue([a_job("q", "by-hosts")]))
            own.start()
            async with plain(standby.url) as direct:
                await terminate(direct)
            # Of the hosts the first that takes writes is the old one.
            await refused("fence the old primary", lambda: by_hosts.broker.enqueue([a_job("q", "split")]))
            await again(lambda: behind.broker.enqueue([a_job("q", "through")]))
            async with plain(own.url) as old:
                assert not await old.fetchval("SELECT count(*) FROM taskq.jobs")
            own.stop()
            await again(lambda: by_hosts.broker.enqueue([a_job("q", "fenced")]))
            assert names(await take(behind.broker, "q", 4)) == ["behind", "by-hosts", "through", "fenced"]


async def test_a_connection_that_leads_to_a_standby_is_not_kept(own: Process) -> None:
    with postgresql.standby(own) as standby:
        async with (
            proxied(own.port) as (proxy, port),
            connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", migrate=True) as backend,
        ):
            await copied(standby)
            proxy.switch(standby.port)
            await refused("standby or read-only", lambda: backend.broker.enqueue([a_job("q", "refused")]))
            await refused("standby or read-only", lambda: enqueue_within(backend, "refused"))
            proxy.lead(own.port)
            await again(lambda: backend.broker.enqueue([a_job("q", "alone")]))
            await again(lambda: enqueue_within(backend, "within"))
            assert names(await take(backend.broker, "q", 2)) == ["alone", "within"]


async def copied(standby: Process) -> None:
    """Wait until the standby has the tables, too."""
    async with plain(standby.url) as direct:
        await wait_until(lambda: direct.fetchval("SELECT to_regclass('taskq.jobs') IS NOT NULL"))


async def enqueue_within(backend: Backend, name: str) -> None:
    """In a transaction that the backend lends."""
    assert backend.transactions is not None
    async with backend.transactions.begin() as connection:
        await backend.transactions.join(connection).enqueue([a_job("q", name)])


async def refused(words: str, call: Callable[[], Awaitable[object]]) -> None:
    """Repeat a call until it is refused in these words: at first its connection may just have ended."""

    async def once() -> bool:
        try:
            await call()
        except BrokerUnavailable as error:
            return words in str(error)
        return False

    await wait_until(once)
