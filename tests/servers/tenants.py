"""URLs that give each test something of its own on a server that many share."""

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from tests.servers.process import Process


def queue_on(server: Process) -> str:
    """A namespace of Redis, or a schema of PostgreSQL, that no other test uses."""
    name = f"t{uuid4().hex[:12]}"
    return f"{server.url}?" + (f"namespace={name}" if server.url.startswith("redis") else f"schema={name}&migrate=1")


def queue_on_cluster(nodes: Sequence[Process]) -> str:
    """The same on a cluster of Redis."""
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return queue_on(nodes[0]).replace(nodes[0].url, f"redis+cluster://{places}")


def queue_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same where the fixture's parameter says: memory, sqlite, cluster, or the name of a server's fixture."""
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/taskq.db"
        case "cluster":
            return queue_on_cluster(request.getfixturevalue("valkey_cluster"))
        case server:
            return queue_on(request.getfixturevalue(server))
