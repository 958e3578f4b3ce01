"""As ``bare_verbs``; one by one it awaits the prepared script: the limit of a lone defer."""

from collections.abc import Sequence
from typing import Any

from taskq_redis.broker import RedisBroker

from benchmarks.peers import bare_verbs
from benchmarks.peers.ours import task_of
from benchmarks.peers.recorder import Order, send, serve
from taskq.job import Job


class Heard(Exception):
    """Instead of a call: what would have been sent."""


async def overheard(broker: RedisBroker, job: Job) -> Sequence[Any]:
    """What the backend calls its script with for this job, so that nothing here says it twice."""
    client = broker._tools.client
    run = client.run

    async def instead(*said: Any) -> Any:
        raise Heard(*said)

    client.run = instead  # type: ignore[method-assign]
    try:
        await broker.enqueue([job])
    except Heard as heard:
        return heard.args
    finally:
        client.run = run  # type: ignore[method-assign]
    raise RuntimeError("the backend called no script")


async def defer(order: Order) -> None:
    """One by one: a bare EVALSHA each, everything else prepared."""
    if order.how != "one":
        await bare_verbs.defer(order)
        return
    app, job = task_of(order)
    async with app:
        broker = app.backend.broker
        assert isinstance(broker, RedisBroker)
        run = broker._tools.client.run
        calls = [(-1, ""), *order.calls()]
        said = {number: await overheard(broker, job.call(number, content).job) for number, content in calls}

        async def one(number: int, content: str) -> None:
            await run(*said[number])

        await send(order, one, None)


if __name__ == "__main__":
    serve("redis hiredis uvloop", {"defer": defer, "work": bare_verbs.work})
