"""Chains, gathers and batches: what follows takes what comes before.

A line with ``# E`` must be an error to every type checker, and no other line may be one.
"""

from collections.abc import Sequence
from typing import assert_type

from taskq import App, BatchReport, Death, FlowHandle, gather
from taskq.call import Chain, Gather

app = App("memory://")


@app.task
async def double(n: int) -> int:
    return 2 * n


@app.task
async def show(n: int, *, unit: str = "") -> str:
    return f"{n}{unit}"


@app.task
async def total(numbers: Sequence[int]) -> int:
    return sum(numbers)


@app.task
async def pair(both: tuple[int, str]) -> bool:
    return bool(both)


@app.task
async def two(a: int, b: int) -> int:
    return a + b


@app.task
async def bury(death: Death) -> None: ...


@app.task
async def report(batch: BatchReport) -> None: ...


async def what_follows_takes_the_result() -> None:
    assert_type(double.call(1).then(show), Chain[str])
    assert_type(double.call(1).then(double).then(show), Chain[str])
    assert_type(show.call(1).then(double.call(2)), Chain[int])
    show.call(1).then(double)  # E
    double.call(1).then(show).then(double)  # E
    double.call(1).then(two)  # E
    double.call(1).then("show")  # E
    assert_type(await app.defer(double.call(1).then(show)), FlowHandle[str])
    text: str = await (await app.defer(double.call(1).then(show))).result()
    number: int = await (await app.defer(double.call(1).then(show))).result()  # E
    assert [text, number]


async def failures_are_deaths() -> None:
    assert_type(double.call(1).then(show).on_failure(bury), Chain[str])
    double.call(1).on_failure(bury.call(1))  # E


async def gathers_are_tuples() -> None:
    assert_type(gather(double.call(1), show.call(2)), Gather[tuple[int, str]])
    assert_type(gather(*[double.call(1)]), Gather[tuple[int, ...]])
    assert_type(gather(double.call(1), show.call(2)).then(pair), Chain[bool])
    assert_type(gather(double.call(1), double.call(2)).then(total), Chain[int])
    assert_type(gather(*[double.call(1)]).then(total).then(show), Chain[str])
    gather(show.call(1), show.call(2)).then(total)  # E
    gather(double.call(1), show.call(2)).then(double)  # E
    gather(double)  # E
    first, second = await (await app.defer(gather(double.call(1), show.call(2)))).result()
    assert_type(first, int)
    assert_type(second, str)


async def callbacks_take_what_they_are_told() -> None:
    async with app.batch("b", then=report, finished=show.call(1), first_failure=bury) as batch:
        await batch.add(double.call(n) for n in range(3))
        await batch.add([double.call(1).then(show)])
        await batch.add([double])  # E
    assert_type(await batch, BatchReport)
    app.batch("b", then=bury)  # E
    app.batch("b", progress={0.5: report, 1000: show.call(1)}, excuses=["expired"], tags="nightly")
    app.batch("b", progress={0.5: bury})  # E
    app.batch("b", excuses=["failed"])  # E
    app.batch("b", first_failure=report)  # E
