"""A prefix of its own on an emulator that many tests share."""

import json
import os
import urllib.request
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

from anyio import to_thread
from msgspec.structs import replace
from taskq_sqs import connect
from taskq_sqs.broker import SqsBroker
from taskq_sqs.faults import DRIVER_ERRORS

from taskq.broker import Backend
from taskq.testing.deployment import Deployment
from tests.servers.process import Process

for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    # Any do; without them the driver would look for some on the network.
    os.environ.setdefault(name, "test")


def ask(server: Process, action: str, **arguments: object) -> Any:
    """What the emulator answers to one call of the JSON protocol."""
    headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "application/x-amz-json-1.0"}
    request = urllib.request.Request(server.url, json.dumps(arguments).encode(), headers)
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        return json.load(answer)


class Tenant:
    """What one test has on the emulator; the name of each of its queues begins with its prefix."""

    def __init__(self, server: Process, url: str | None = None, **options: object) -> None:
        self.server = server
        self.prefix = f"t{uuid4().hex[:12]}"
        query = "&".join(f"{name}={value}" for name, value in {"create": 1, "poll": 1, **options}.items())
        self.url = f"sqs+{url or server.url}/{self.prefix}?{query}"

    def open(self, **options: object) -> AbstractAsyncContextManager[Backend]:
        return connect(self.url, **options)

    def queues(self) -> list[str]:
        """The addresses of its queues."""
        found: list[str] = ask(self.server, "ListQueues", QueueNamePrefix=self.prefix).get("QueueUrls", [])
        return found

    def count(self, queue: str) -> int:
        """The messages of a queue, visible or not."""
        attributes = ask(self.server, "GetQueueAttributes", QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        return sum(int(value) for name, value in attributes.items() if name.startswith("ApproximateNumberOf"))

    async def residue(self) -> Collection[str]:
        """Queues that hold a job. Dead letters stay as long as their queue keeps them, whatever ``keep`` says."""
        return await to_thread.run_sync(self._holding)

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:
        """Within the context nobody answers."""
        assert isinstance(backend.broker, SqsBroker)
        client = backend.broker.client
        account, client.account = client.account, replace(client.account, endpoint="http://127.0.0.1:1/")
        yield
        client.account = account

    def _holding(self) -> list[str]:
        return [queue for queue in self.queues() if "--dead" not in queue and self.count(queue)]

    @property
    def deployment(self) -> Deployment:
        return Deployment(open=self.open, residue=self.residue, sever=self.sever, driver_errors=DRIVER_ERRORS)
