"""What jobs have noted about themselves ends with them."""

from collections.abc import Sequence

from taskq.job import Ack, JobRef
from taskq.ledger.notes import key_of
from taskq.store import Store
from taskq.worker.run import Decided, Run


async def end_notes(decided: Sequence[Decided]) -> None:
    """Before these are settled: should this worker die after that, their notes bind no later jobs of their ids."""
    for run, decision in decided:
        if isinstance(decision.settlement, Ack) and run.current is not None and run.current.notes is not None:
            await run.current.notes.end()


async def forget_notes(store: Store | None, decided: Sequence[Decided]) -> None:
    """Now that these are settled, nothing of the jobs that are gone remains."""
    for run, decision in decided:
        if not isinstance(decision.settlement, Ack):
            continue
        if run.current is not None and run.current.notes is not None:
            notes = run.current.notes
            await (notes.forget() if run.settled else notes.lapse())
        elif store is not None and run.settled and run.started is None and _has_run(run):
            key = key_of(JobRef(run.delivery.job.queue, run.delivery.job.id))
            value = (await store.get(key)).value
            if value is not None:
                await store.swap(key, value, None)


def _has_run(run: Run) -> bool:
    delivery = run.delivery
    return delivery.attempt > 1 or delivery.losses > 0 or delivery.error is not None
