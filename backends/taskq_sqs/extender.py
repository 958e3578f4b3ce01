"""Extending leases, from the worker's loop or another one."""

from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

from taskq.broker import Extender
from taskq.job import Lease
from taskq_sqs.account import Account
from taskq_sqs.batches import Fields
from taskq_sqs.client import Client
from taskq_sqs.faults import VOID, SaidError, code_of, translated
from taskq_sqs.message import MAX_LEASE, Receipt, read_receipt
from taskq_sqs.names import names_of
from taskq_sqs.queues import Queues, each
from taskq_sqs.settings import Settings


class SqsExtender:
    """Extends over connections of its own, from the event loop that opened it."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._queues, receipts, lease)


@asynccontextmanager
async def extending(account: Account, settings: Settings) -> AsyncGenerator[Extender]:
    """An extender whose connections end with the context."""
    client = Client(account, await account.signer(), settings)
    try:
        yield SqsExtender(Queues(client, names_of(settings), settings))
    finally:
        await client.close()


async def extend(queues: Queues, receipts: Sequence[str], lease: float) -> list[Lease]:
    """Extend each, tens to a call, wherever its queue is."""
    calls: dict[str, Coroutine[Any, Any, bool]] = {}
    for receipt in receipts:
        held = read_receipt(receipt)
        if held is not None and receipt not in calls:
            calls[receipt] = change(queues, held, lease)
    if receipts and not calls:
        await ping(queues)
    answers = dict(zip(calls, await each(list(calls.values())), strict=True))
    return [Lease.HELD if answers.get(receipt) else Lease.LOST for receipt in receipts]


async def change(queues: Queues, held: Receipt, lease: float) -> bool:
    """Let the lease end ``lease`` seconds from now; False when it is not ours any more, or has reached its ceiling."""
    clock = queues.client.clock
    left = MAX_LEASE - (clock.now() - held.received if clock.known else 0.0) - 1
    if left <= 0:
        return False
    fields = Fields(ReceiptHandle=held.handle, VisibilityTimeout=visibility(min(lease, left)))
    name = queues.names.of(held.queue, held.band)
    return await stands(queues.batches("ChangeMessageVisibilityBatch", name).add(fields))


def visibility(lease: float) -> int:
    """A lease as SQS counts it, in whole seconds."""
    return ceil(min(max(lease, 0.0), MAX_LEASE))


async def stands(entry: Awaitable[None]) -> bool:
    """Whether the receipt was good. Raises BrokerError for everything else that may have happened."""
    try:
        await entry
    except SaidError as error:
        if code_of(error) in VOID:
            return False
        raise translated(error, "SQS") from error
    return True


async def ping(queues: Queues) -> None:
    """Raises BrokerError when the service cannot be reached: to call receipts void meanwhile would be a guess."""
    await queues.find(queues.names.of("taskq"))
