"""One run of a job as a worker would have it, in a life that may end before the run does."""

import asyncio
from typing import Any

from msgspec.structs import replace

from taskq.app import App
from taskq.job import Delivery, Nack
from taskq.limits.keeper import Keeper
from taskq.outcome import Decision, Outcome, decide
from taskq.task import Task
from taskq.testing.mortal import Life, MortalStore
from taskq.worker.effects import Effects
from taskq.worker.notes import end_notes, forget_notes
from taskq.worker.run import Run
from taskq.worker.runner import Runner

LEASE = 3600.0
"""Of deliveries whose end nobody waits for."""


async def run_delivery(
    app: App, delivery: Delivery, task: Task[..., Any], life: Life | None = None
) -> tuple[Run, Outcome | Decision]:
    """Run it, and settle nothing; raises Died when its life ends before."""
    backend = app.backend
    async with app.prepared(task) as runnable:
        store = backend.store if life is None or backend.store is None else MortalStore(backend.store, life)
        keeper = None if store is None else Keeper(store, LEASE)
        runner = Runner({task.name: runnable}, backend.transactions, Effects(backend).find, keeper, store)
        run, refused = runner.prepare(delivery)
        if refused is not None:
            return run, refused
        try:
            running = runner.run(run) if life is None else life.run(runner.run(run))
            return run, await asyncio.get_running_loop().create_task(running, context=runner.surroundings())
        finally:
            if life is not None and run.current is not None and run.current.notes is not None:
                run.current.notes.abandon()


async def settle_run(app: App, run: Run, outcome: Outcome | Decision) -> Decision:
    """Settle as a worker does, but let what runs again do so at once."""
    backend, effects = app.backend, Effects(app.backend)
    decision = outcome if isinstance(outcome, Decision) else decide(outcome, run.delivery, run.policy, chance=0.0)
    await end_notes([(run, decision)])
    ((_, decision),) = await effects.carry_out([(run, decision)])
    settlement = decision.settlement
    if isinstance(settlement, Nack):
        settlement = replace(settlement, after=0.0)
    (run.settled,) = await backend.broker.settle([settlement])
    if run.settled:
        await effects.forget([(run, decision)])
    await forget_notes(backend.store, [(run, decision)])
    return decision
