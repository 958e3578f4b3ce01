"""URLs that give each test something of its own on a server that many share."""

from collections.abc import Sequence
from uuid import uuid4

from tests.servers.process import Process


def queue_on(server: Process) -> str:
    """A namespace of Redis, or a schema of PostgreSQL, that no other test uses."""
    name = f"t{uuid4().hex[:12]}"
    return f"{server.url}?" + (f"namespace={name}" if server.url.startswith("redis") else f"schema={name}&migrate=1")


def queue_on_cluster(nodes: Sequence[Process]) -> str:
    """The same on a cluster of Redis."""
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return queue_on(nodes[0]).replace(nodes[0].url, f"redis+cluster://{places}")
