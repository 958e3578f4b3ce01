"""Who may use the servers, and over what: TLS, and users with few rights."""

import re
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from redis.crc import key_slot
from taskq_redis import connect

from taskq.errors import BrokerRejected
from taskq.testing.deployment import LONG, a_job, ack, add, take, take_one, wait_until
from tests.backends.redis.deployment import command
from tests.backends.redis.test_redis_cluster import move
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.proxy import proxied

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "redis.md"

pytestmark = pytest.mark.anyio


async def test_one_server_is_reached_over_tls(own_redis: Process, tls: ssl.SSLContext, certificate: Path) -> None:
    async with (
        proxied(own_redis.port, tls) as (_, port),
        connect(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}") as backend,
        backend.extender() as extender,
    ):
        await add(backend.broker, a_job("q"))
        delivery = await take_one(backend.broker, "q")
        await extender.extend([delivery.receipt], LONG)
        await ack(backend.broker, delivery)


async def test_a_certificate_that_nobody_vouches_for_is_refused(own_redis: Process, tls: ssl.SSLContext) -> None:
    async with proxied(own_redis.port, tls) as (_, port):
        with pytest.raises(BrokerRejected, match="ssl_ca_certs"):
            async with connect(f"rediss://127.0.0.1:{port}"):
                pass


async def test_a_cluster_is_reached_over_tls_and_its_redirections_are_followed(
    tmp_path: Path, tls: ssl.SSLContext, certificate: Path
) -> None:
    with valkey.cluster(tmp_path) as nodes:
        async with AsyncExitStack() as stack:
            ports = [(await stack.enter_async_context(proxied(node.port, tls)))[1] for node in nodes]
            for node, port in zip(nodes, ports, strict=True):
                command(node, "CONFIG", "SET", "cluster-announce-port", port)
            # Each hears from the others by gossip.
            for port in ports:
                valkey.await_all(nodes, f":{port}@", "CLUSTER NODES")
            url = f"rediss+cluster://127.0.0.1:{ports[0]}?ssl_ca_certs={certificate}"
            async with connect(url) as backend:
                queues = [f"q{n}" for n in range(12)]
                await add(backend.broker, *(a_job(queue) for queue in queues))
                for _ in move(nodes, key_slot(b"{taskq:q0}")):
                    pass
                for queue in queues:
                    await ack(backend.broker, *await take(backend.broker, queue))


async def test_sentinels_may_have_a_user_of_their_own_and_all_of_it_go_over_tls(
    own_redis: Process, tmp_path: Path, tls: ssl.SSLContext, certificate: Path
) -> None:
    (tmp_path / "sentinel").mkdir()
    command(own_redis, "ACL", "SETUSER", "default", ">secret")
    with valkey.single(tmp_path / "sentinel", sentinel=True) as sentinel:
        async with proxied(own_redis.port, tls) as (_, master), proxied(sentinel.port, tls) as (_, port):
            # It names the master it was told of, though it cannot speak to it.
            command(sentinel, "SENTINEL", "MONITOR", "main", "127.0.0.1", master, 1)
            for user in (["watcher", "on", ">seen", "+sentinel"], ["default", "-sentinel"]):
                command(sentinel, "ACL", "SETUSER", *user)
            url = f"rediss+sentinel://:secret@127.0.0.1:{port}/main?ssl_ca_certs={certificate}"
            async with connect(f"{url}&sentinel_username=watcher&sentinel_password=seen") as backend:
                await add(backend.broker, a_job("q"))
            with pytest.raises(BrokerRejected, match="may not do this"):
                async with connect(url):
                    pass


@pytest.mark.parametrize("forbidden", ["-@scripting", "resetkeys ~other*"])
async def test_a_user_who_may_not_do_what_taskq_needs_is_refused_at_once(forbidden: str, own_redis: Process) -> None:
    command(own_redis, "ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", *forbidden.split())
    with pytest.raises(BrokerRejected, match="grant it the commands, keys and channels"):
        async with connect(f"redis://few:secret@127.0.0.1:{own_redis.port}"):
            pass


async def test_the_rights_that_the_guide_names_are_enough(own_redis: Process) -> None:
    (rights,) = re.findall(r"^ACL SETUSER app (.*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    command(own_redis, "ACL", "SETUSER", "app", *rights.split())
    async with connect(f"redis://app:secret@127.0.0.1:{own_redis.port}") as backend:
        assert backend.hints is not None
        assert backend.admin is not None
        assert backend.doctor is not None
        async with backend.hints.subscribe(["news"]) as hints, anyio.create_task_group() as tasks:
            tasks.start_soon(take, backend.broker, "q")
            await wait_until(lambda: _waits(own_redis))
            await add(backend.broker, a_job("q", "a", delay=0.01), a_job("q", "b", group="g"))
            await backend.hints.publish("news", "x")
            assert (await anext(hints)).data == "x"
        await take(backend.broker, "q")
        assert [stats.queue for stats in await backend.admin.stats()] == ["q"]
        assert len(await backend.admin.list_jobs("q", "leased", after=None, limit=9)) == 2
        assert {finding.subject for finding in await backend.doctor()} >= {"version", "clock"}


async def _waits(server: Process) -> bool:
    return bool(command(server, "EXISTS", "{taskq:q}:waiting"))
