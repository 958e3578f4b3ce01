"""Find the account, hand over the parts; wait for what is under way when the context is left."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio import CancelScope

from taskq.broker import Backend, Extender, Traits
from taskq_sqs import settings
from taskq_sqs.account import find_account
from taskq_sqs.broker import SqsBroker
from taskq_sqs.client import Client
from taskq_sqs.doctor import doctor
from taskq_sqs.extender import extending
from taskq_sqs.message import MAX_DELAY, MAX_LEASE
from taskq_sqs.names import names_of
from taskq_sqs.queues import Queues
from taskq_sqs.settings import Settings
from taskq_sqs.setup import SqsSetup

_BATCH = 1_000
"""Jobs a call; they go in tens, side by side."""
_ROOM = 8_192
"""Bytes of a message that are not the call: names, headers, counters, the last errors."""


@asynccontextmanager
async def connect(url: str, **options: object) -> AsyncGenerator[Backend]:
    """A backend on SQS, shared by every process that names the same account, region and prefix.

    ``sqs://region/prefix``, or ``sqs+http://host:port/prefix`` for another server. Credentials are found as AWS tools
    find them. See :class:`~taskq_sqs.settings.Settings` for the options, in the query string or by keyword.
    """
    chosen = settings.read(url, options)
    account = await find_account(chosen)
    client = Client(account, await account.signer(), chosen)
    queues = Queues(client, names_of(chosen), chosen)
    broker = SqsBroker(queues, _traits(chosen))

    def extender() -> AbstractAsyncContextManager[Extender]:
        return extending(account, chosen)

    try:
        yield Backend(
            broker=broker, extender=extender, doctor=doctor(queues), setup=SqsSetup(queues), rouse=broker.rouse
        )
    finally:
        with CancelScope(shield=True):
            await broker.close()


def _traits(chosen: Settings) -> Traits:
    """A FIFO queue doubles nothing, takes no receipt that is over, and knows ids for five minutes after they came."""
    return Traits(
        delivery=frozenset({"at_least_once"}),
        durability="replicated",
        idempotent=False,
        dedup_window=300.0 if chosen.fifo else 0.0,
        unique=False,
        ordered=False,
        bands=len(chosen.bands) > 1,
        groups=False,
        exclusive=chosen.fifo,
        fenced=chosen.fifo,
        exact_attempts=False,
        max_delay=MAX_DELAY,
        max_lease=MAX_LEASE,
        linger=chosen.poll,
        max_size=chosen.max_size - _ROOM,
        max_batch=_BATCH,
    )
