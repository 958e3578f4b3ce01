"""A namespace and a user of its own on servers that many tests share."""

import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Any
from uuid import uuid4

from anyio import to_thread
from redis import Redis, RedisError
from redis.exceptions import AskError, MovedError
from taskq_redis import connect
from taskq_redis.keys import NAMES

from taskq.broker import Backend
from taskq.testing.deployment import Deployment
from tests.servers.process import Process
from tests.servers.valkey import ask, await_all, await_written

_KINDS = b"|".join(name.encode() for name in NAMES)
OURS = re.compile(rb"\{[\w-]+(:.*\}:(" + _KINDS + rb")|/.*\}:(held|members|gone))", re.DOTALL)
"""What a key of a queue is called, or of the store."""


class Tenant:
    """What one test has on the servers; every key of it begins with its namespace."""

    def __init__(self, nodes: Sequence[Process], url: Callable[[str], str]) -> None:
        """``url`` makes one from the user with the password and ``@``."""
        self.namespace = f"t{uuid4().hex[:12]}"
        self.nodes = nodes
        self.url = url(f"{self.namespace}:secret@")
        self.permit("+@all")

    def open(self, **options: object) -> AbstractAsyncContextManager[Backend]:
        return connect(self.url, namespace=self.namespace, **options)

    async def residue(self) -> Collection[str]:
        """Every key of this namespace on every master; what ends by itself within seconds carries no job."""
        masters = [node for node in self.nodes if command(node, "ROLE")[0] == b"master"]
        return [key for node in masters for key in await to_thread.run_sync(partial(self._keys, node))]

    async def restart(self) -> None:
        await_written(self.nodes)
        # Not in another thread: a server ends with the one that started it.
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.start()
        if len(self.nodes) > 1:
            await_all(self.nodes, "cluster_state:ok\r", "CLUSTER INFO")
        self.permit("+@all")

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:  # noqa: ARG002  # every backend of this user
        self.permit("-@all")
        yield
        self.permit("+@all")

    def permit(self, what: str) -> None:
        """Let its user do so on all servers."""
        for node in self.nodes:
            ask(node, f"ACL SETUSER {self.namespace} on >secret ~* &* {what}")

    @property
    def deployment(self) -> Deployment:
        return Deployment(
            open=self.open,
            residue=self.residue,
            restart=self.restart,
            sever=self.sever,
            driver_errors=(RedisError, OSError),
        )

    def _keys(self, node: Process) -> list[str]:
        return keys(node, f"{{{self.namespace}*")


def keys(node: Process, pattern: str = "*") -> list[str]:
    """The keys of one server, but for counts, and for the moments of fetches, which end within a minute."""
    found: list[bytes] = command(node, "KEYS", pattern)
    kept = [key for key in found if not key.endswith(b":lapsed")]
    return [key.decode() for key in kept if not (key.endswith(b":latest") and _ends(node, key))]


def strangers(node: Process) -> list[bytes]:
    """Its keys that are called as nothing is that taskq stores."""
    found: list[bytes] = command(node, "KEYS", "*")
    return [key for key in found if not OURS.fullmatch(key)]


def _ends(node: Process, key: bytes) -> bool:
    try:
        return bool(command(node, "TTL", key) != -1)
    except (MovedError, AskError):
        # It is on its way to another node.
        return True


def command(node: Process, *words: str | int | bytes) -> Any:
    """What a server answers."""
    client: Any = Redis(port=node.port)
    with closing(client):
        return client.execute_command(*words)
