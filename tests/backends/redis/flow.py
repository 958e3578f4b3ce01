"""Jobs that flow through one queue while its servers are broken."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio

from taskq.broker import Backend
from taskq.errors import BrokerUnavailable
from taskq.job import Ack, Delivery
from taskq.testing.deployment import SOON, a_job, names, wait_until


class Flow:
    """Producers and consumers of one queue that put up with a server that is away, and with nothing else."""

    def __init__(self, backend: Backend, queue: str) -> None:
        self._backend = backend
        self._queue = queue
        self.answered: set[str] = set()
        self.done: Counter[str] = Counter()
        self.unsure: set[str] = set()
        """Whether their end was told before the server went is known to nobody."""
        self.repeated: set[str] = set()
        """Enqueued again as the first answer was lost: such a job may have ended before, and then it is a new one."""
        self.enough = False

    async def produce(self) -> None:
        for n in range(1_000_000):
            if self.enough:
                return
            while not self.enough:
                try:
                    await self._backend.broker.enqueue([a_job(self._queue, str(n))])
                except BrokerUnavailable:
                    self.repeated.add(str(n))
                    await anyio.sleep(0.05)
                else:
                    self.answered.add(str(n))
                    break
            await anyio.sleep(0.001)

    async def consume(self) -> None:
        while not (self.enough and await self._is_empty()):
            got: Sequence[Delivery] = ()
            try:
                got = await self._backend.broker.fetch([self._queue], 10, lease=2.0, wait=0.5)
                settled = await self._backend.broker.settle([Ack(delivery.receipt) for delivery in got])
            except BrokerUnavailable:
                self.unsure.update(names(got))
                await anyio.sleep(0.05)
            else:
                self.done.update(name for name, one in zip(names(got), settled, strict=True) if one)

    @property
    def lost(self) -> set[str]:
        """Answered, and never to be seen again."""
        return self.answered - self.done.keys() - self.unsure

    async def _is_empty(self) -> bool:
        assert self._backend.admin is not None
        (stats,) = await self._backend.admin.stats([self._queue])
        return stats.later + stats.ready + stats.leased == 0

    async def reaches(self, count: int) -> None:
        """Return when so many more jobs are done."""
        goal = self.done.total() + count

        async def there() -> bool:
            return self.done.total() >= goal

        await wait_until(there)


@asynccontextmanager
async def flowing(backend: Backend, queue: str = "q") -> AsyncGenerator[Flow]:
    """Begins when jobs flow; at the end all that are left are done."""
    flow = Flow(backend, queue)
    with anyio.fail_after(4 * SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flow.produce)
            tasks.start_soon(flow.consume)
            await flow.reaches(20)
            yield flow
            flow.enough = True
