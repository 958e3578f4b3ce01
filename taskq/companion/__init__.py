"""Broker × Store → Backend: what a broker that has the four verbs alone lacks, kept in a store beside it.

The store holds a row for each job, and a row is the truth: whether it is live, due, leased and by whom, how often it
ran. The broker's messages carry the jobs, each with its body, and remind of them; one too many is recognised and
dropped. Should the store lose its rows, their messages still bring the jobs, which then may run twice.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from math import inf
from typing import get_args

from anyio import CancelScope
from msgspec.structs import replace

from taskq.broker import Backend, Doctor, Durability, Extender, Finding, Guarantee, Traits
from taskq.companion.admin import CompanionAdmin
from taskq.companion.broker import CompanionBroker, Notify, extend
from taskq.companion.later import Later
from taskq.companion.results import CompanionResults
from taskq.companion.rows import Rows
from taskq.errors import ConfigError
from taskq.job import Lease

__all__ = ["CompanionBroker", "Notify", "pair"]

_FROM_WEAK_TO_STRONG: Sequence[Durability] = get_args(Durability)


@asynccontextmanager
async def pair(
    carrying: AbstractAsyncContextManager[Backend],
    keeping: AbstractAsyncContextManager[Backend],
    notify: Notify,
) -> AsyncGenerator[Backend]:
    """A backend of two: the first carries the jobs, the store of the second keeps what the first cannot.

    ``notify`` is told of each message that was one too many. A broker that has a store of its own needs no companion
    and is handed over as it is. Raises ConfigError for a companion without a store.
    """
    async with carrying as carrier:
        if carrier.store is not None:
            yield replace(carrier, doctor=_doctor(carrier, None))
            return
        async with keeping as keeper:
            if keeper.store is None or keeper.open_store is None:
                raise ConfigError("a companion is a database that keeps a store: Redis, PostgreSQL or SQLite")
            rows, later = Rows(keeper.store), Later(keeper.store)
            broker = CompanionBroker(carrier.broker, rows, later, _traits(carrier, keeper), notify)
            try:
                yield _joined(carrier, keeper, broker, rows, later)
            finally:
                with CancelScope(shield=True):
                    await broker.close()


def _joined(carrier: Backend, keeper: Backend, broker: CompanionBroker, rows: Rows, later: Later) -> Backend:
    open_store = keeper.open_store
    assert open_store is not None, "pair() looked"  # noqa: S101

    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        async with open_store() as store, carrier.extender() as carrying:
            yield _Extender(Rows(store), carrying)

    return Backend(
        broker=broker,
        extender=extender,
        results=CompanionResults(rows),
        hints=keeper.hints,
        store=keeper.store,
        open_store=open_store,
        admin=CompanionAdmin(rows, later, broker.sender),
        doctor=_doctor(carrier, keeper),
        setup=carrier.setup,
        rouse=None if carrier.rouse is None else partial(_rouse, broker, carrier.rouse),
    )


def _rouse(broker: CompanionBroker, carrier: Callable[[], None]) -> None:
    broker.roused += 1
    carrier()


class _Extender:
    """Extends from the event loop that opened it."""

    def __init__(self, rows: Rows, carrying: Extender) -> None:
        self._rows = rows
        self._carrying = carrying

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._rows, self._carrying.extend, receipts, lease)


def _traits(carrier: Backend, keeper: Backend) -> Traits:
    """What both together promise: a job that waits for its moment is in the store alone."""
    carries, keeps = carrier.broker.traits, keeper.broker.traits
    return replace(
        carries,
        delivery=frozenset(get_args(Guarantee)),
        durability=min(carries.durability, keeps.durability, key=_FROM_WEAK_TO_STRONG.index),
        idempotent=True,
        dedup_window=0.0,
        unique=True,
        ordered=False,
        groups=True,
        fair=False,
        exclusive=True,
        fenced=True,
        exact_attempts=True,
        max_delay=inf,
        max_lease=inf,
        max_batch=min(carries.max_batch, keeps.max_batch),
    )


def _doctor(carrier: Backend, keeper: Backend | None) -> Doctor:
    async def look() -> Sequence[Finding]:
        carries = await carrier.doctor() if carrier.doctor is not None else ()
        if keeper is None:
            message = f"it is not used: {_name(carrier)} has a store of its own"
            return [*carries, Finding("companion", "warning", message, "drop the setting")]
        keeps = await keeper.doctor() if keeper.doctor is not None else ()
        found = Finding("companion", "ok", f"{type(keeper.store).__name__} keeps what {_name(carrier)} cannot")
        return [*carries, found, *(replace(finding, subject=f"companion, {finding.subject}") for finding in keeps)]

    return look


def _name(backend: Backend) -> str:
    return type(backend.broker).__name__
