"""URLs that give each test something of its own on a server that many share."""

from uuid import uuid4

from tests.servers.process import Process


def queue_on(server: Process) -> str:
    """A namespace of Redis, or a schema of PostgreSQL, that no other test uses."""
    name = f"t{uuid4().hex[:12]}"
    return f"{server.url}?" + (f"namespace={name}" if server.url.startswith("redis") else f"schema={name}&migrate=1")
