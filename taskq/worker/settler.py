"""Decides what follows from each run, and tells the broker: what gathered during the last call goes with the next."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, PartlySettled
from taskq.events import Events, JobAgain, JobFinished, JobsSettled, SettlementRefused
from taskq.job import Delivery, Nack
from taskq.outcome import Decision, Lost, Outcome, Poisonous, Raised, Undecodable
from taskq.report import LastSeen
from taskq.worker.contact import Contact
from taskq.worker.effects import leaves_traces
from taskq.worker.notes import end_notes, forget_notes
from taskq.worker.run import Decided, Run, decision_of, job_fields

_log = logging.getLogger("taskq")


class Settler:
    """Ends leases. A delivery counts as held until the broker has confirmed its settlement."""

    def __init__(
        self,
        backend: Backend,
        events: Events,
        contact: Contact,
        *,
        carry_out: Callable[[Sequence[Decided]], Awaitable[Sequence[Decided]]],
        forget: Callable[[Sequence[Decided]], Awaitable[None]],
        extend: Callable[[], Awaitable[None]],
        settled: Callable[[Sequence[Run]], None],
        last_seen: Callable[[Sequence[Delivery]], Awaitable[Sequence[LastSeen | None]]],
    ) -> None:
        self._broker = backend.broker
        self._store = backend.store
        self._events = events
        self._contact = contact
        self._carry_out = carry_out
        """Does what follows from these decisions, and answers those that count."""
        self._forget = forget
        """Forgets what was written down to decide these once; what cannot be forgotten now lapses by itself."""
        self._extend = extend
        """Extends all leases and drops those that were lost: done before settling after every loss of contact."""
        self._settled = settled
        """Told of runs that are not held any more."""
        self._last_seen = last_seen
        """What is known of the workers that died under these."""
        self._bereaved: list[tuple[Run, Poisonous | Lost]] = []
        """To be decided when that is known."""
        self.settling: Sequence[Decided] = ()
        """What the broker is being told: their leases may end with that at any moment, and are not lost."""
        self._pending: list[Decided] = []
        self._wake = asyncio.Event()
        self._closing = False

    def finish(self, run: Run, outcome: Outcome | Decision) -> None:
        """Decide and settle soon. A lost run settles nothing, one that settled itself nothing more."""
        if run.lost:
            self._events.emit(SettlementRefused(**job_fields(run)))
            self._settled([run])
            return
        if run.started is None and isinstance(outcome, Poisonous | Lost):
            self._bereaved.append((run, outcome))
            self._wake.set()
        else:
            self._conclude(run, outcome)

    def _conclude(self, run: Run, outcome: Outcome | Decision) -> None:
        decision = decision_of(run, outcome)
        self._tell(run, outcome, decision)
        if run.settled:
            self._settled([run])
            return
        self._pending.append((run, decision))
        self._wake.set()

    async def run(self) -> None:
        """Settle until closed and nothing is pending."""
        while self._pending or self._bereaved or not self._closing:
            if self._bereaved:
                bereaved, self._bereaved = self._bereaved, []
                seen = await self._last_seen([run.delivery for run, _ in bereaved])
                for (run, outcome), worker in zip(bereaved, seen, strict=True):
                    self._conclude(run, replace(outcome, worker=worker))
                continue
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            size = self._broker.traits.max_batch
            batch, self._pending = self._pending[:size], self._pending[size:]
            await self._settle(batch)

    def close(self) -> None:
        """End :meth:`run` once all is settled."""
        self._closing = True
        self._wake.set()

    async def _settle(self, batch: Sequence[Decided]) -> None:
        """Tell the broker; what it could not be told goes with the next call."""
        batch = self._without_lost(batch)
        if not batch:
            return
        plain, traced = _apart(batch)
        try:
            if traced:
                await end_notes(traced)
                traced = await self._carry_out(traced)
                batch = [*plain, *traced]
            began, self.settling = time.monotonic(), batch
            answers = await self._broker.settle([decision.settlement for _, decision in batch])
        except PartlySettled as partly:
            known = [(one, answer) for one, answer in zip(batch, partly.answers, strict=True) if answer is not None]
            await self._ended(known, _apart([one for one, _ in known])[1])
            await self._later([one for one, answer in zip(batch, partly.answers, strict=True) if answer is None])
        except BrokerUnavailable as error:
            self._contact.fail(error)
            await self._later(batch)
        except BrokerRejected as error:
            if len(batch) > 1:
                for decided in batch:
                    await self._settle([decided])
            else:
                self._refused(batch[0], error)
        else:
            self._contact.succeed()
            if JobsSettled in self._events.listeners:
                self._events.emit(JobsSettled(jobs=len(batch), seconds=time.monotonic() - began))
            await self._ended([*zip(batch, answers, strict=True)], traced)
        finally:
            self.settling = ()

    async def _later(self, batch: Sequence[Decided]) -> None:
        self._pending[:0] = batch
        self.settling = ()
        await self._contact.back_off()
        await self._extend()

    async def _ended(self, answered: Sequence[tuple[Decided, bool]], traced: Sequence[Decided]) -> None:
        for (run, decision), settled in answered:
            run.settled = settled
            if not settled:
                self._events.emit(SettlementRefused(**job_fields(run), end=decision.end))
        if traced:
            with suppress(BrokerError):
                await self._forget(traced)
                await forget_notes(self._store, traced)
        self._settled([run for (run, _), _ in answered])

    def _without_lost(self, batch: Sequence[Decided]) -> Sequence[Decided]:
        lost = [(run, decision) for run, decision in batch if run.lost]
        if not lost:
            return batch
        for run, decision in lost:
            self._events.emit(SettlementRefused(**job_fields(run), end=decision.end))
        self._settled([run for run, _ in lost])
        return [decided for decided in batch if not decided[0].lost]

    def _refused(self, decided: Decided, error: BrokerRejected) -> None:
        """A settlement the broker will never take: the job comes back when its lease ends, nothing is lost."""
        run, decision = decided
        _log.error(
            "job %s: %s could not be settled: %s", run.delivery.job.id, type(decision.settlement).__name__, error
        )
        self._settled([run])

    def _tell(self, run: Run, outcome: Outcome | Decision, decision: Decision) -> None:
        kind = JobAgain if decision.end is None else JobFinished
        if kind not in self._events.listeners:
            return
        error = outcome.error if isinstance(outcome, Raised | Undecodable) else None
        seconds = asyncio.get_running_loop().time() - run.started if run.started is not None else 0.0
        fields, wait = job_fields(run), run.delivery.now - run.delivery.due
        peak, grown = (0, 0) if run.current is None else (run.current.peak, run.current.grown)
        if decision.end is not None:
            self._events.emit(
                JobFinished(
                    **fields,
                    end=decision.end,
                    run=seconds,
                    wait=wait,
                    error=error,
                    peak=peak,
                    grown=grown,
                    reason=decision.reason,
                )
            )
        elif isinstance(decision.settlement, Nack):
            nack = decision.settlement
            again = JobAgain(
                **fields,
                after=nack.after,
                counted=nack.counted,
                reason=decision.reason,
                run=seconds,
                wait=wait,
                error=error,
                peak=peak,
                grown=grown,
            )
            self._events.emit(again)


def _apart(batch: Sequence[Decided]) -> tuple[Sequence[Decided], Sequence[Decided]]:
    """Those that nothing follows from and nothing is remembered of, and the others."""
    plain: list[Decided] = []
    traced: list[Decided] = []
    for decided in batch:
        (traced if leaves_traces(*decided) else plain).append(decided)
    return plain, traced
