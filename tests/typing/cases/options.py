"""Options of tasks and calls: known names, and values of their types.

A line with ``# E`` must be an error to every type checker, and no other line may be one.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from taskq import App, Concurrency, Current, JobHandle, RateLimit, Retry, Tasks
from taskq.middleware import Handler

app = App("memory://")
tasks = Tasks()


async def layer(current: Current, proceed: Handler) -> Any:
    return await proceed(current)


@app.task(
    name="send",
    queue="mail",
    priority=1,
    retry=Retry(5),
    timeout=timedelta(seconds=30),
    delivery="at_least_once",
    idempotent="guarded",
    keep=60,
    max_losses=2,
    middleware=[layer],
    limits=[RateLimit(5, per=timedelta(minutes=1), key=("to",)), Concurrency(2, overlap="skip")],
    unique=("to",),
    on_conflict="replace",
    unique_until=timedelta(hours=1),
)
async def send(to: str) -> int:
    return len(to)


key_a, key_b, smtp = RateLimit(5, name="a"), RateLimit(9, name="b"), Concurrency(2, name="smtp", overlap="skip")


@app.task(limits=(key_a & smtp) | key_b)
async def either() -> None:
    async with key_a | key_b as key:
        assert_type(key, RateLimit)
    async with key_a | smtp as granted:
        assert_type(granted, RateLimit | Concurrency)
    async with app.limited(key_a.of(cost=3) | key_b.of(cost=5)) as permit:
        await permit.settle(2)
    app.task(limits=key_a | 5)  # E


async def options_of_a_call() -> None:
    variant = send.options(delay=timedelta(hours=2), unique="welcome:42", priority=3, headers={"a": "b"})
    assert_type(await variant.defer("a@example.org"), JobHandle[int])
    send.options(run_at=datetime.now(UTC), on_conflict="raise", unique_until="start", group="a", group_limit=2)
    send.options(id="one", attempts=3, timeout=1.5, expires_in=60, tenant="t", tags=["a"], tx=object())
    send.options(expires_at=datetime.now(UTC))
    send.options(expires_at=60)  # E
    await variant.defer(5)  # E
    send.options(dely=5)  # E
    send.options(retry=Retry(3))  # E
    send.options(keep=5)  # E
    send.options(delay="5")  # E
    send.options(delay=None)  # E
    send.options(run_at=1e9)  # E
    send.options(priority=1.5)  # E
    send.options(queue=5)  # E
    send.options(unique=5)  # E
    send.options(on_conflict="ignore")  # E
    send.options(unique_until="never")  # E
    send.options(group_limit="2")  # E
    send.options(headers={"a": 1})  # E
    send.options("mail")  # E


@app.task(quee="mail")  # E
async def unknown_option() -> None: ...


@app.task(delivery="exactly_once")  # E
async def unknown_guarantee() -> None: ...


@app.task(executor="fiber")  # E
def unknown_executor() -> None: ...


@app.task(idempotent="yes")  # E
async def unknown_idempotence() -> None: ...


@tasks.task(timeout="30")  # E
async def wrong_time() -> None: ...


@tasks.task(retry="often")  # E
async def wrong_retry() -> None: ...


@tasks.task(middleware=[len])  # E
async def wrong_middleware() -> None: ...


Retry(attempts="5")  # E
Retry(on=ValueError)  # E
Retry(curve=lambda _attempt: 5.0)  # E
Retry(decide=lambda _error, _attempt: True)  # E
