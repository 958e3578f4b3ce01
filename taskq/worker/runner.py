"""Runs one delivery: decode, middleware and handler, and what that came to. Knows nothing of brokers or slots."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context

import msgspec

from taskq.broker import Transactions
from taskq.context import Current, running
from taskq.errors import ConfigError, DecodeError
from taskq.expiry import EXPIRES_AT, dated
from taskq.flow.bounds import Bounds
from taskq.flow.members import RESUMED
from taskq.flow.places import numbered_behind
from taskq.job import Delivery, Job
from taskq.limits.keeper import Keeper, keeping
from taskq.making import ATTEMPTS, TIMEOUT
from taskq.options import check_option
from taskq.outcome import (
    Decision,
    Interrupted,
    Outcome,
    Policy,
    Raised,
    Returned,
    Undecodable,
    Unknown,
    decide,
    screen,
)
from taskq.payloads import not_here
from taskq.schedule import LIFE
from taskq.sequel import FLOW, FOLLOWS, KEPT, Plan, plan_of
from taskq.store import Store
from taskq.timeouts import Timeouts
from taskq.versions import VERSION, brought_up, version_of
from taskq.worker.run import Run, Runnable, unbegun

_NOTHING = Returned()
_SAYS_NOTHING: frozenset[str] = frozenset()
_RECALLING = frozenset({FOLLOWS, RESUMED, LIFE})
"""Headers of jobs that may have ended before."""
_SAID = _RECALLING | {ATTEMPTS, TIMEOUT, EXPIRES_AT, VERSION, FLOW}
"""Headers that the line obeys. All others only travel."""
_FLOWS = frozenset({FLOW})


class Runner:
    """Turns deliveries into outcomes."""

    def __init__(
        self,
        runnables: Mapping[str, Runnable],
        transactions: Transactions | None,
        recall: Callable[[Run], Awaitable[Decision | None]],
        keeper: Keeper | None = None,
        store: Store | None = None,
    ) -> None:
        self._runnables = runnables
        self._means = {name: runnable.means(store, transactions) for name, runnable in runnables.items()}
        self._transactions = transactions
        self._keeper = keeper
        """What handlers find limits by."""
        self._bounds = None if store is None else Bounds(store)
        self._recall = recall
        """What an earlier delivery decided without living to settle it."""

    def surroundings(self) -> Context:
        """What runs begin with, a copy each: what the lifespan set, and the keeper of limits."""
        context = copy_context()
        if self._keeper is not None:
            context.run(keeping.set, self._keeper)
        return context

    def prepare(self, delivery: Delivery) -> tuple[Run, Outcome | None]:
        """The run of a delivery, or why it must not be run."""
        job = delivery.job
        runnable, headers = self._runnables.get(job.task), job.headers
        said = _said_by(headers) if headers else _SAYS_NOTHING
        if EXPIRES_AT in said:
            delivery = dated(delivery)
        if runnable is None:
            run = Run(delivery)
            return run, screen(delivery, run.policy) or Unknown()
        run = Run(delivery, runnable.policy)
        run.timeouts = runnable.timeouts
        if said:
            run.obeys, run.plan = True, plan_of(job)
            # Of all that is said, a place in a batch is said most often.
            if said is not _FLOWS or (run.plan is not None and run.plan.keeps):
                run.policy, run.timeouts = _overridden(runnable, job, run.plan)
                run.recalls = not _RECALLING.isdisjoint(said)
        refused = screen(delivery, run.policy)
        if refused is not None:
            return run, refused
        body, version = job.body, runnable.version
        if VERSION in said or version > 1:
            version = version_of(headers)
            if version > runnable.version:
                return run, Unknown(version)
        try:
            if version < runnable.version and runnable.upcast is not None:
                body = brought_up(body, version, runnable.upcast)
            arguments = runnable.decode(body)
        except DecodeError as error:
            return run, Undecodable(not_here(job) or error)
        run.runnable = runnable
        run.current = Current(delivery, arguments, self._means[job.task])
        return run, None

    async def run(self, run: Run) -> Outcome | Decision:
        """How the run went, or what was decided about it already. Raises nothing."""
        runnable, current = run.runnable, run.current
        assert runnable is not None and current is not None, "only what prepare() let pass is run"  # noqa: S101, PT018
        if run.asked is not None:
            return unbegun(run.asked)
        running.set(current)
        outcome: Outcome | Decision
        try:
            if run.again:
                recalled = await self._recall(run)
                if recalled is not None:
                    return recalled
            if runnable.transaction:
                return await self._run_in_transaction(run, runnable, current)
            value = await runnable.handler(current)
            if current.used_batch is not None and self._bounds is not None:
                await self._bounds.refuse(current.used_batch.place, current.used_batch.added)
            return _returned(run, runnable, value)
        except asyncio.CancelledError:
            outcome = run.asked or Raised(RuntimeError("the handler was cancelled by its own code"))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its outcome
            outcome = Raised(error)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler ends the job, not the worker
            outcome = Raised(RuntimeError(f"the handler raised {type(error).__name__}: {error}"))
            outcome.error.__cause__ = error
        if current.notes is not None:
            await run.close()
            await current.notes.leave(lost=run.lost)
        return outcome

    async def _run_in_transaction(self, run: Run, runnable: Runnable, current: Current) -> Outcome | Decision:
        """Writes, defers, outcome and ack commit together; a void receipt rolls all of it back."""
        assert self._transactions is not None, "the app refuses to open with such a task and no transactions"  # noqa: S101
        try:
            async with self._transactions.begin() as connection:
                current.connection = connection
                value = await runnable.handler(current)
                decision = decide(_returned(run, runnable, value), run.delivery, run.policy, chance=0.0, plan=run.plan)
                broker = self._transactions.join(connection)
                if decision.effects:
                    await broker.enqueue(decision.effects)
                # A job that runs inline is in no broker.
                if run.delivery.receipt and not (await broker.settle([decision.settlement]))[0]:
                    raise _Void  # noqa: TRY301 - leaving the context by a raise is what rolls back
        except _Void:
            run.lost = True
            return Interrupted()
        finally:
            current.connection = None
        run.settled = True
        return decision


class _Void(Exception):
    """The receipt was void: somebody else has the job, so the transaction must not commit."""


def _returned(run: Run, runnable: Runnable, value: object) -> Returned:
    batch = None if run.current is None else run.current.used_batch
    if batch is None and not run.policy.keep:
        return _NOTHING
    added = () if batch is None else numbered_behind(batch.place, batch.added)
    return Returned(runnable.encode(value) if run.policy.keep else None, added)


def _said_by(headers: Mapping[str, str]) -> frozenset[str]:
    """Which headers of a job the line obeys; nearly always none or its place in a batch, at a third of the price."""
    if len(headers) == 1 and FLOW in headers:
        return _FLOWS
    return _SAID.intersection(headers)


def _overridden(runnable: Runnable, job: Job, plan: Plan | None) -> tuple[Policy, Timeouts | None]:
    """Policy and time-outs with what the call itself said; a header that makes no sense says nothing."""
    policy, timeouts, headers = runnable.policy, runnable.timeouts, job.headers
    if ATTEMPTS in headers:
        with suppress(ValueError, ConfigError):
            retry = msgspec.structs.replace(policy.retry, attempts=int(headers[ATTEMPTS]))
            policy = msgspec.structs.replace(policy, retry=retry)
    if plan is not None and plan.keeps:
        policy = msgspec.structs.replace(policy, keep=max(policy.keep, KEPT))
    if TIMEOUT in headers:
        with suppress(ValueError, ConfigError):
            own = check_option("timeout", float(headers[TIMEOUT]))
            timeouts = msgspec.structs.replace(timeouts or Timeouts(), run=own)
    return policy, timeouts
