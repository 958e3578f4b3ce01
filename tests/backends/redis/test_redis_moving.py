"""The contract is kept while the ground moves: slots with the keys in use go from node to node, primaries fail over."""

import os
import random
import ssl
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from msgspec.structs import replace
from redis import Redis, RedisError
from redis.crc import key_slot
from taskq_redis.broker import RedisBroker
from taskq_redis.servers import Cluster

from taskq.broker import Backend
from taskq.errors import BrokerUnavailable
from taskq.testing.deployment import SOON, Deployment, a_job, add, wait_until
from taskq.testing.mutant import run_clause
from taskq.testing.store_contract import StoreContract
from tests.backends.redis.deployment import Tenant, command
from tests.backends.redis.test_redis_cluster import move, sentinel_url
from tests.contract.redis_server import RedisContract
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.proxy import proxied
from tests.servers.valkey import await_all

EACH = 1 if "TASKQ_TEST_LONG" in os.environ else 8
"""Every how many-th clause is run."""

CLAUSES = [
    (contract, name)
    for contract in (RedisContract, StoreContract)
    for name in sorted(dir(contract))
    if name.startswith("test_") and name != "test_a_random_history_agrees_with_the_model"
]

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


class Mover:
    """Moves slots that hold keys, one after the other, and now and then lets a replica take over from its primary."""

    def __init__(self, nodes: Sequence[Process]) -> None:
        self.moved = self.failed_over = 0
        self.hurried = False
        """The next failover is due."""
        self._nodes = nodes
        self._stopped = threading.Event()

    def run(self) -> None:
        """In a thread, until told to stop."""
        while not self._stopped.is_set():
            masters = self._of("master")
            key = command(random.choice(masters), "RANDOMKEY")
            if key is not None:
                for _ in move(random.sample(masters, len(masters)), key_slot(key)):
                    self._stopped.wait(0.01)
                self.moved += 1
            if self.hurried or self.moved >= 20 * self.failed_over + 5:
                self.hurried = False
                self._fail_over()
            self._stopped.wait(0.02)

    async def fail_over(self) -> None:
        """Instead of a restart, which all nodes cannot have while slots are on their way."""
        before, self.hurried = self.failed_over, True

        async def done() -> bool:
            return self.failed_over > before

        await wait_until(done)

    def stop(self) -> None:
        self._stopped.set()

    def _fail_over(self) -> None:
        masters, replica = self._of("master"), random.choice(self._of("slave"))
        command(replica, "CLUSTER", "FAILOVER")
        # The old primary knows of it a moment later than the new one.
        while (replica not in self._of("master") or len(self._of("master")) > len(masters)) and not (
            self._stopped.wait(0.05)
        ):
            pass
        self.failed_over += 1

    def _of(self, role: str) -> list[Process]:
        return [node for node in self._nodes if command(node, "ROLE")[0] == role.encode()]


class Narrow:
    """What a managed cluster allows: commands of 3,999 arguments, and no database but the first."""

    def __init__(self) -> None:
        self.most = 0
        self.refused: list[bytes] = []

    def __call__(self, command: list[bytes]) -> bool:
        self.most = max(self.most, len(command))
        if len(command) <= 3_999 and command[0].upper() != b"SELECT":
            return True
        self.refused.append(command[0])
        return False


@asynccontextmanager
async def narrowed(nodes: Sequence[Process], allows: Narrow, tls: ssl.SSLContext) -> AsyncGenerator[Sequence[int]]:
    """The ports under which clients know the nodes of a cluster from now on."""
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for node in nodes:
            proxy, port = await stack.enter_async_context(proxied(node.port, tls))
            proxy.allows = allows
            command(node, "CONFIG", "SET", "cluster-announce-client-port", port)
            ports.append(port)
        # Each hears from the others by gossip.
        for port in ports:
            await to_thread.run_sync(await_all, nodes, f":{port}@", "CLUSTER NODES")
        yield ports


async def run_clauses(deployment: Deployment, clauses: Sequence[tuple[type, str]]) -> dict[str, str]:
    """What is not kept, and how that was seen: to be skipped is not to be kept."""
    failures: dict[str, str] = {}
    for contract, name in clauses:
        try:
            with anyio.fail_after(2 * SOON):
                await run_clause(contract, name, deployment)
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 each is told at the end
            failures[name] = repr(error)
    return failures


async def test_as_21_the_contract_holds_while_slots_move_and_primaries_fail_over(
    tmp_path: Path, tls: ssl.SSLContext, certificate: Path
) -> None:
    allows = Narrow()
    with valkey.cluster(tmp_path, replicas=3) as nodes:
        async with narrowed(nodes, allows, tls) as ports:
            places = ",".join(f"127.0.0.1:{port}" for port in ports)
            tenant = Tenant(nodes, lambda user: f"rediss+cluster://{user}{places}?ssl_ca_certs={certificate}")
            met: Counter[str] = Counter()

            @asynccontextmanager
            async def counted() -> AsyncGenerator[Backend]:
                async with tenant.open() as backend:
                    yield backend
                    assert isinstance(backend.broker, RedisBroker)
                    servers = backend.broker._tools.client.servers  # pyright: ignore[reportPrivateUsage]
                    assert isinstance(servers, Cluster)
                    met.update(servers.redirections)

            def has_moved() -> bool:
                return mover.failed_over > 0 and met["MOVED"] > 0 and met["ASK"] + met["TRYAGAIN"] > 0

            mover, failures = Mover(nodes), dict[str, str]()
            deployment = replace(tenant.deployment, open=counted, restart=mover.fail_over)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(to_thread.run_sync, mover.run)
                try:
                    failures |= await run_clauses(deployment, CLAUSES[::EACH])
                    # Until what this is about has been met; a short sample may not have.
                    while not has_moved() and not failures:
                        failures |= await run_clauses(deployment, random.sample(CLAUSES, 1))
                finally:
                    mover.stop()
            async with tenant.open() as backend:
                await add(backend.broker, *(a_job("large", str(n)) for n in range(3_000)))
            assert not allows.refused
            most = allows.most
            with pytest.raises(RedisError):
                await to_thread.run_sync(_delete, ports[0], certificate, 3_999)
            assert {*allows.refused} == {b"DEL"}
        figures = f"{mover.moved} slots moved, {mover.failed_over} failovers, met: {dict(met)}"
        print(f"{figures}, at most {most} arguments")  # noqa: T201
        assert not failures


async def test_the_contract_holds_before_and_after_a_failover_under_sentinel(tmp_path: Path) -> None:
    with valkey.watched(tmp_path) as watched:
        tenant = Tenant([watched.master, watched.replica], partial(_with_user, sentinel_url(watched)))
        deployment = tenant.deployment
        chosen = [(contract, name) for contract, name in CLAUSES[::EACH] if "restart" not in name]
        failures = await run_clauses(deployment, chosen[: len(chosen) // 2])
        watched.master.kill()
        tenant.nodes = [watched.replica]

        async def back() -> bool:
            try:
                async with tenant.open():
                    return bool(command(watched.replica, "ROLE")[0] == b"master")
            except BrokerUnavailable:
                return False

        await wait_until(back)
        failures |= await run_clauses(deployment, chosen[len(chosen) // 2 :])
        assert not failures


def _with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}")


def _delete(port: int, certificate: Path, count: int) -> None:
    client: Any = Redis(port=port, ssl=True, ssl_ca_certs=str(certificate))
    with closing(client):
        client.delete(*range(count))
