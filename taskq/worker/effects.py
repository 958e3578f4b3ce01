"""What an end brings about is carried out before it is settled, and an end with effects is decided once.

A crash between an effect and the settlement repeats the effect, and a follow-up may have ended by then. So the
decision is written down first: whoever finds it there carries out that one, and a follow-up that finds its own end
written down does not run again. Jobs without effects pay for none of this.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from taskq.broker import Backend
from taskq.job import Ack, DeadLetter, Job
from taskq.outcome import FOLLOWS, Decision
from taskq.report import End
from taskq.worker.runner import Run

REMEMBERED = 7 * 86_400.0
"""Seconds a decision stays written down: longer than a job may wait for its next delivery after a crash."""

Decided = tuple[Run, Decision]


class _Mark(Struct, frozen=True):
    outcome: bytes | None
    keep: float
    dead: bool
    end: End
    reason: str
    effects: tuple[Job, ...]


class Effects:
    """Enqueues follow-ups; without a Store, one may run again when its job's worker died at the wrong moment."""

    def __init__(self, backend: Backend) -> None:
        self._broker = backend.broker
        self._store = backend.store

    async def find(self, run: Run) -> Decision | None:
        """What was decided about this job in an earlier delivery that came to its end but not to its settlement."""
        if self._store is None or not (
            (run.delivery.losses and run.policy.on_dead) or FOLLOWS in run.delivery.job.headers
        ):
            return None
        value = (await self._store.get(_key(run))).value
        return None if value is None else _restored(value, run)

    async def carry_out(self, decided: Sequence[Decided]) -> Sequence[Decided]:
        """The same, with the decisions that count, when all that follows from them is enqueued."""
        if not any(_marked(run, decision) for run, decision in decided):
            return decided
        counting = [(run, await self._decided_once(run, decision)) for run, decision in decided]
        effects = [job for _, decision in counting for job in decision.effects]
        if effects:
            await self._broker.enqueue(effects)
        return counting

    async def forget(self, decided: Sequence[Decided]) -> None:
        """Now that these are settled, their marks would only bind a revived job. A follow-up's own mark stays."""
        if self._store is None:
            return
        for run, decision in decided:
            if decision.effects:
                value = (await self._store.get(_key(run))).value
                await self._store.swap(_key(run), value, None)

    async def _decided_once(self, run: Run, decision: Decision) -> Decision:
        if self._store is None or not _marked(run, decision):
            return decision
        if await self._store.swap(_key(run), None, _written(decision), ttl=REMEMBERED):
            return decision
        value = (await self._store.get(_key(run))).value
        return decision if value is None else _restored(value, run)


def _marked(run: Run, decision: Decision) -> bool:
    return decision.end is not None and bool(decision.effects or FOLLOWS in run.delivery.job.headers)


def _key(run: Run) -> str:
    return f"end:{run.delivery.job.queue}:{run.delivery.job.id}"


def _written(decision: Decision) -> bytes:
    settlement = decision.settlement
    assert isinstance(settlement, Ack | DeadLetter) and decision.end is not None, "only ends are marked"  # noqa: S101, PT018
    dead = isinstance(settlement, DeadLetter)
    mark = _Mark(settlement.outcome, settlement.keep, dead, decision.end, decision.reason, decision.effects)
    return msgspec.msgpack.encode(mark)


def _restored(value: bytes, run: Run) -> Decision:
    mark = msgspec.msgpack.decode(value, type=_Mark)
    receipt = run.delivery.receipt
    settlement = (
        DeadLetter(receipt, mark.outcome or b"", mark.keep) if mark.dead else Ack(receipt, mark.outcome, mark.keep)
    )
    return Decision(settlement, mark.end, mark.reason, mark.effects)
