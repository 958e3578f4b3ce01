"""Decides what follows from each run, and tells the broker: what gathered during the last call goes with the next."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress

import anyio

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, PartlySettled
from taskq.events import Events, JobAgain, JobFinished, JobsSettled, SettlementRefused
from taskq.flow.members import Rest, all_of
from taskq.job import Nack
from taskq.outcome import Cancelled, Decision, Lost, Outcome, Poisonous, Raised, Undecodable
from taskq.worker.contact import Contact
from taskq.worker.effects import Left, by_chunk, is_remembered, only_leaves
from taskq.worker.gathering import Gathering
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
        leave: Callable[[Sequence[Decided]], Awaitable[Left]],
        finish: Callable[[Sequence[Rest]], Awaitable[None]],
        forget: Callable[[Sequence[Decided]], Awaitable[None]],
        extend: Callable[[], Awaitable[None]],
        settled: Callable[[Sequence[Run]], None],
        learn: Callable[[Sequence[tuple[Run, Outcome]]], Awaitable[Sequence[Outcome]]],
    ) -> None:
        self._broker = backend.broker
        self._store = backend.store
        self._events = events
        self._contact = contact
        self._carry_out = carry_out
        """Does what follows from these decisions, and answers those that count."""
        self._leave = leave
        """The same for members that only leave their batches; those who leave last wait for what that brings about. May
        settle the others with it."""
        self._settles_leaving = backend.discard_and_settle is not None
        self._finish = finish
        """Brings it about."""
        self._forget = forget
        """Forgets what was written down to decide these once; what cannot be forgotten now lapses by itself."""
        self._extend = extend
        """Extends all leases and drops those that were lost: done before settling after every loss of contact."""
        self._settled = settled
        """Told of runs that are not held any more."""
        self._learn = learn
        """What others have left for these: the workers that died under them, or who ends them with a value."""
        most = backend.broker.traits.max_batch
        self.leaving: Sequence[Decided] = ()
        """They leave their batches now, and are settled next."""
        self.settling: list[Sequence[Decided]] = []
        """What the broker is being told: their leases may end with that at any moment, and are not lost."""
        self._unlearned: Gathering[tuple[Run, Outcome]] = Gathering(most)
        """To be decided when that is known."""
        self._traced: Gathering[Decided] = Gathering(most)
        """Before these are settled, what follows from them is to be done."""
        self._leaving: Gathering[Decided] = Gathering(most)
        """Before these are settled, they leave their batches, and that is all."""
        self._finishing: Gathering[Left] = Gathering(most)
        """Before those of them who wait are settled, the rest is to be done."""
        self._pending: Gathering[Decided] = Gathering(most)
        """To be settled."""

    def finish(self, run: Run, outcome: Outcome | Decision) -> None:
        """Decide and settle soon. A lost run settles nothing, one that settled itself nothing more."""
        if run.lost:
            self._events.emit(SettlementRefused(**job_fields(run)))
            self._settled([run])
            return
        if isinstance(outcome, Cancelled) or (run.started is None and isinstance(outcome, Poisonous | Lost)):
            self._unlearned.add((run, outcome))
        else:
            self._conclude(run, outcome)

    def _conclude(self, run: Run, outcome: Outcome | Decision) -> None:
        decision = decision_of(run, outcome)
        self._tell(run, outcome, decision)
        if run.settled:
            self._settled([run])
            return
        run.remembered = is_remembered(run, decision)
        if not (run.remembered or run.obeys or decision.effects):
            self._pending.add((run, decision))
        elif only_leaves(run, decision):
            self._leaving.add((run, decision))
        else:
            self._traced.add((run, decision))

    async def run(self) -> None:
        """Settle until closed and nothing is pending.

        What follows from some ends is carried out while others are settled; plain ones wait for nobody's, and members
        that only leave their batches wait for no callback of another.
        """
        async with anyio.create_task_group() as settling:
            settling.start_soon(self._pending.run, self._settle)
            async with anyio.create_task_group() as following:
                following.start_soon(self._traced.run, self._follow)
                async with anyio.create_task_group() as first:
                    first.start_soon(self._unlearned.run, self._conclude_learned)
                    first.start_soon(self._let_all_go)
                self._traced.close()
            self._pending.close()

    def close(self) -> None:
        """End :meth:`run` once all is settled."""
        self._unlearned.close()
        self._leaving.close()

    async def _conclude_learned(self, unlearned: Sequence[tuple[Run, Outcome]]) -> None:
        try:
            outcomes = await self._learn(unlearned)
        except BrokerUnavailable as error:
            self._contact.fail(error)
            self._unlearned.put_back(unlearned)
            await self._try_again()
            return
        except BrokerRejected as error:
            _log.error("what others have left for %d jobs could not be read: %s", len(unlearned), error)
            outcomes = [outcome for _, outcome in unlearned]
        for (run, _), outcome in zip(unlearned, outcomes, strict=True):
            self._conclude(run, outcome)

    async def _let_all_go(self) -> None:
        async with anyio.create_task_group() as finishing:
            finishing.start_soon(self._finishing.run, self._finish_rest)
            await self._leaving.run(self._let_go)
            self._finishing.close()

    async def _let_go(self, batch: Sequence[Decided]) -> None:
        """Members leave; what could not be told now is told with the next."""
        batch = self._without_lost(batch)
        if not batch:
            return
        if self._settles_leaving:
            await all_of(map(self._let_go_settled, by_chunk(batch)))
            return
        self.leaving = batch
        try:
            left = await self._leave(batch)
        except BrokerUnavailable as error:
            self._contact.fail(error)
            self._leaving.put_back(batch)
            self.leaving = ()
            await self._try_again()
        except BrokerRejected as error:
            await self._each(batch, self._let_go, error)
        else:
            self._have_left(left)
        finally:
            self.leaving = ()

    async def _let_go_settled(self, batch: Sequence[Decided]) -> None:
        """Members of one chunk leave and are settled with it, unless there is more to do before."""
        began = time.monotonic()
        try:
            with self._telling(batch):
                left = await self._leave(batch)
                if left.settled:
                    await self._were_settled(left.settled, began)
        except BrokerUnavailable as error:
            self._contact.fail(error)
            self._leaving.put_back(batch)
            await self._try_again()
        except BrokerRejected as error:
            await self._each(batch, self._let_go, error)
        else:
            self._have_left(left)

    def _have_left(self, left: Left) -> None:
        self._pending.add_all(left.done)
        if left.unsure:
            self._traced.add_all(left.unsure)
        if left.rest:
            self._finishing.add(left)

    async def _finish_rest(self, lefts: Sequence[Left]) -> None:
        waiting = [decided for left in lefts for decided in left.waiting]
        try:
            await self._finish([rest for left in lefts for rest in left.rest])
        except BrokerError:
            # Who leaves once more does it again.
            self._traced.add_all(waiting)
        else:
            self._pending.add_all(waiting)

    async def _follow(self, batch: Sequence[Decided]) -> None:
        """Do what follows, and pass on to be settled; what could not be done now is done with the next."""
        batch = self._without_lost(batch)
        if not batch:
            return
        try:
            await end_notes([decided for decided in batch if decided[0].remembered])
            done = await self._carry_out(batch)
        except BrokerUnavailable as error:
            self._contact.fail(error)
            self._traced.put_back(batch)
            await self._try_again()
        except BrokerRejected as error:
            await self._each(batch, self._follow, error)
        else:
            self._pending.add_all(done)

    async def _settle(self, batch: Sequence[Decided]) -> None:
        """Tell the broker; what it could not be told goes with the next call."""
        batch = self._without_lost(batch)
        if not batch:
            return
        began = time.monotonic()
        try:
            with self._telling(batch):
                answers = await self._broker.settle([decision.settlement for _, decision in batch])
                await self._were_settled([*zip(batch, answers, strict=True)], began)
        except PartlySettled as partly:
            told = [*zip(batch, partly.answers, strict=True)]
            with self._telling(batch):
                await self._ended([(one, answer) for one, answer in told if answer is not None])
            await self._later([one for one, answer in told if answer is None])
        except BrokerUnavailable as error:
            self._contact.fail(error)
            await self._later(batch)
        except BrokerRejected as error:
            await self._each(batch, self._settle, error)

    @contextmanager
    def _telling(self, batch: Sequence[Decided]) -> Generator[None]:
        self.settling.append(batch)
        try:
            yield
        finally:
            self.settling.remove(batch)

    async def _were_settled(self, answered: Sequence[tuple[Decided, bool]], began: float) -> None:
        self._contact.succeed()
        if JobsSettled in self._events.listeners:
            self._events.emit(JobsSettled(jobs=len(answered), seconds=time.monotonic() - began))
        await self._ended(answered)

    async def _later(self, batch: Sequence[Decided]) -> None:
        self._pending.put_back(batch)
        await self._try_again()

    async def _try_again(self) -> None:
        await self._contact.back_off()
        await self._extend()

    async def _each(
        self, batch: Sequence[Decided], act: Callable[[Sequence[Decided]], Awaitable[None]], error: BrokerRejected
    ) -> None:
        """One by one, so that one that is refused takes no other with it."""
        if len(batch) == 1:
            self._refused(batch[0], error)
            return
        for decided in batch:
            await act([decided])

    async def _ended(self, answered: Sequence[tuple[Decided, bool]]) -> None:
        runs: list[Run] = []
        remembered: list[Decided] = []
        for decided, settled in answered:
            run, decision = decided
            run.settled = settled
            runs.append(run)
            if run.remembered:
                remembered.append(decided)
            if not settled:
                self._events.emit(SettlementRefused(**job_fields(run), end=decision.end))
        if remembered:
            with suppress(BrokerError):
                await self._forget(remembered)
                await forget_notes(self._store, remembered)
        self._settled(runs)

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
