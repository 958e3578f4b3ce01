"""The same scripts in a loop on one connection, one asyncio task a job, and nothing else: what the server allows.

The next claim and the settlement of the last one leave in one write, so that no round trip is waited for twice.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import json, msgpack
from taskq_redis.broker import RedisBroker
from taskq_redis.rows import line_of
from taskq_redis.scripts import Script
from taskq_redis.wire import Reply

from benchmarks.peers.ours import task_of
from benchmarks.peers.recorder import Ledger, Order, send, serve
from taskq import App

TOKEN = 2
"""Which argument of a claim is the token of its receipts."""


def broker_of(app: App) -> RedisBroker:
    broker = app.backend.broker
    assert isinstance(broker, RedisBroker)
    return broker


async def arguments_of_a_claim(broker: RedisBroker, slots: int) -> Sequence[Any]:
    """What the backend itself claims with, so that the loop here says nothing of the script twice."""
    said: list[Sequence[Any]] = []
    client = broker._tools.client
    run = client.run

    async def overhear(script: Script, keys: Sequence[bytes], *arguments: Any) -> Reply:
        said.append(arguments)
        return await run(script, keys, *arguments)

    client.run = overhear  # type: ignore[method-assign]
    try:
        await broker.fetch(["empty"], slots, lease=30.0, wait=0.0)
    finally:
        client.run = run  # type: ignore[method-assign]
    return said[0]


async def defer(order: Order) -> None:
    """The enqueue script, awaited for each job: the limit of one by one."""
    app, job = task_of(order)
    encode = msgpack.Encoder()
    calls = [(-1, ""), *order.calls()]
    packed = {call[0]: encode.encode([line_of(job.call(*call).job, encode)]) for call in calls}
    async with app:
        tools = broker_of(app)._tools
        keys, script = tools.keys.queue("default"), tools.scripts.enqueue
        await tools.client.run(script, keys, encode.encode([]))

        async def one(number: int, content: str) -> None:
            await tools.client.run(script, keys, packed[number])

        await send(order, one, None)


async def work(order: Order) -> None:
    """Claim, a task a job, settle."""
    handler = Ledger(order).handler()
    app, _ = task_of(order)
    loop, decode = asyncio.get_running_loop(), json.decode
    async with app:
        broker = broker_of(app)
        arguments = await arguments_of_a_claim(broker, order.slots)
        token, tools = arguments[TOKEN], broker._tools
        run, scripts, keys = tools.client.run, tools.scripts, tools.keys.queue("default")
        settling: asyncio.Future[Any] | None = None
        while True:
            claiming = asyncio.ensure_future(run(scripts.claim, keys, *arguments))
            reply, *_ = await asyncio.gather(claiming, *([settling] if settling else []))
            items = reply[3]
            names = items[::4]
            bodies = [msgpack.decode(call)[1] for call in items[2::4]]
            tasks = [loop.create_task(handler(decode(body)["args"]["number"], "")) for body in bodies]
            if tasks:
                await asyncio.wait(tasks)
            packed = msgpack.encode([(name.decode(), token) for name in names])
            settling = asyncio.ensure_future(run(scripts.settle, keys, packed, 0)) if names else None


if __name__ == "__main__":
    serve("redis hiredis uvloop", {"defer": defer, "work": work})
