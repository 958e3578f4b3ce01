"""A backend with a cloakroom keeps the contract of the one beneath it, though every call is kept elsewhere."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from msgspec.structs import replace

from taskq.broker import Backend
from taskq.job import Ack, DeadLetter
from taskq.memory.store import MemoryStore
from taskq.payloads import LEFT_BEHIND, TICKET, Cloakroom, StoredPayloads, checked
from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment, a_job, add, ref, take_one


class TestMemoryWithCloakroom(BrokerContract):
    @pytest.fixture
    def deployment(self, memory_deployment: Deployment) -> Deployment:
        bare: dict[int, Backend] = {}

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend]:
            async with memory_deployment.open() as backend:
                assert isinstance(backend.store, MemoryStore)
                limit = backend.broker.traits.max_size
                payloads = StoredPayloads(backend.store)
                with_room = checked(backend, Cloakroom(payloads, above=0, limit=limit, keep=60.0))
                bare[id(with_room)] = backend
                yield with_room

        def sever(backend: Backend) -> AbstractAsyncContextManager[None]:
            assert memory_deployment.sever is not None
            return memory_deployment.sever(bare[id(backend)])

        return replace(memory_deployment, open=opened, sever=sever)

    # What differs, and how.

    async def test_c_s4_a_dead_letter_is_kept_with_its_outcome(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        await self.looks_at_a_ticket(backend, other, queue)

    async def test_admin_looks_a_job_up_in_every_state(self, backend: Backend, queue: str) -> None:
        await self.looks_at_a_ticket(backend, backend, queue)

    async def looks_at_a_ticket(self, backend: Backend, other: Backend, queue: str) -> None:
        """An operator sees that a call is kept elsewhere; revived, the job has it again."""
        assert other.admin is not None
        await add(backend.broker, a_job(queue, body=b"whole", headers={"h": "1"}))
        delivery = await take_one(backend.broker, queue)
        await backend.broker.settle([DeadLetter(delivery.receipt, b"no")])
        record = await other.admin.lookup(ref(a_job(queue)))
        assert record is not None
        assert (record.job.body, set(record.job.headers)) == (LEFT_BEHIND, {"h", TICKET})
        await other.admin.revive([ref(a_job(queue))])
        again = await take_one(backend.broker, queue)
        assert (again.job.body, again.job.headers) == (b"whole", {"h": "1"})

    async def test_c_a4_nothing_outlives_its_job(self, deployment: Deployment, queue: str) -> None:
        """But the call of a dead letter, which may be revived until it lapses."""
        async with deployment.open() as backend:
            before = set(await deployment.residue())
            await add(backend.broker, *(a_job(queue, name) for name in "abc"), a_job(queue, "d", unique="k"))
            await backend.broker.enqueue([a_job(queue, "a"), a_job(queue, "e", unique="k")])
            while deliveries := await backend.broker.fetch([queue], 10, lease=60, wait=0):
                assert all(await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries]))
            assert set(await deployment.residue()) <= before
