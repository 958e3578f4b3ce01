"""Schedules: known options, values of their types, and a task that stays what it was.

A line with ``# E`` must be an error to every type checker, and no other line may be one.
"""

from datetime import date, timedelta
from typing import assert_type

from taskq import App, JobHandle, Tasks

app = App("memory://")
tasks = Tasks()


@app.schedule(
    "0 3 * * *", tz="Europe/Berlin", misfire="all", limit=3, grace=60, except_=["2026-12-24", date(2026, 12, 25)]
)
@app.schedule(every=timedelta(seconds=10), name="often", overlap="skip", jitter=5, block_while_failed=True)
@app.task(queue="mail")
async def report(city: str = "Berlin") -> int:
    return len(city)


@tasks.schedule("every 10s", args={"city": "Bonn"})
@tasks.task
def sync_report(city: str) -> None: ...


async def made_at_run_time() -> None:
    assert_type(await report.defer("Bonn"), JobHandle[int])
    app.schedules.add("bonn", report.call("Bonn"), "0 3 * * *", twice=True)
    await app.schedules.create("bonn", report.call("Bonn"), every=5, replace=True)
    await app.schedules.create("bonn", report.call(5), "0 3 * * *")  # E
    await app.schedules.create("bonn", report, "0 3 * * *")  # E
    app.schedules.add("bonn", report.call("Bonn"), 5)  # E
    app.schedules.add("bonn", report.call("Bonn"), "0 3 * * *", misfires="all")  # E
    app.schedule("0 3 * * *", misfire="never")  # E
    app.schedule("0 3 * * *", overlap="never")  # E
    app.schedule("0 3 * * *", tz=5)  # E
    app.schedule("0 3 * * *", except_=5)  # E
    app.schedule("0 3 * * *", grace="5m")  # E
    app.schedule("0 3 * * *")(len)  # E
