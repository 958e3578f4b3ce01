"""Runs a job where it is called, as workers run it: their runner, time-outs and decisions, and no broker."""

import asyncio
import time

import anyio
from msgspec.structs import replace

from taskq.broker import Backend
from taskq.errors import JobFailed
from taskq.handle import failure_of
from taskq.job import Delivery, Job, Nack
from taskq.outcome import Decision, Outcome, Raised
from taskq.report import read_outcome
from taskq.worker.deadlines import Deadlines
from taskq.worker.run import Run, Runnable, decision_of
from taskq.worker.runner import Runner


class Inline:
    """Jobs of one task, one after another."""

    def __init__(self, task: str, runnable: Runnable, backend: Backend) -> None:
        # Whatever is kept of results elsewhere: this one is waited for.
        waited_for = replace(runnable, policy=replace(runnable.policy, keep=1.0))
        self._runner = Runner({task: waited_for}, backend.transactions, _nothing, store=backend.store)
        self._loop = asyncio.get_running_loop()

    async def run(self, job: Job, *, retries: bool) -> bytes:
        """The encoded result.

        Raises what the handler raised, in its last run, or the JobError that tells why it was not run.
        """
        delivery = Delivery(job=job, attempt=1, losses=0, fence=1, receipt="", now=time.time(), due=0.0)
        began = delivery.now - self._loop.time()
        while True:
            run, refused = self._runner.prepare(delivery)
            outcome = refused or await self._outcome(run)
            decision = decision_of(run, outcome)
            match decision.settlement:
                case Nack(after=after, counted=counted, error=error) if retries:
                    await asyncio.sleep(after)
                    delivery = replace(
                        delivery,
                        attempt=delivery.attempt + counted,
                        fence=delivery.fence + 1,
                        now=began + self._loop.time(),
                        error=error or delivery.error,
                    )
                case _:
                    await _forget(run)
                    return _result(outcome, decision)

    async def _outcome(self, run: Run) -> Outcome | Decision:
        came: list[Outcome | Decision] = []

        async def fiber() -> None:
            came.append(await self._runner.run(run))

        run.started = self._loop.time()
        run.fiber = running = self._loop.create_task(fiber(), context=self._runner.surroundings())
        deadlines = Deadlines([run])
        if run.timeouts is not None:
            deadlines.watch(run)
        try:
            await asyncio.wait({running})
        finally:
            deadlines.close()
            running.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({running})
        running.result()
        return came[0]


async def _nothing(_run: Run) -> None:
    """What was decided of it earlier."""


async def _forget(run: Run) -> None:
    if run.current is not None and run.current.notes is not None:
        await run.current.notes.end()
        await run.current.notes.forget()


def _result(outcome: Outcome | Decision, decision: Decision) -> bytes:
    if isinstance(outcome, Raised):
        raise outcome.error
    settlement = decision.settlement
    if isinstance(settlement, Nack) or settlement.outcome is None:
        raise JobFailed(type(outcome).__name__, decision.reason)
    ended = read_outcome(settlement.outcome)
    if ended.end == "returned":
        return bytes(ended.value)
    raise failure_of(ended)
