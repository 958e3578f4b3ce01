"""``taskq bench`` measures, advises, and leaves nothing behind."""

import anyio
import asyncpg
import pytest
from msgspec.structs import replace

from taskq import App
from taskq.broker import Traits
from taskq.cli.speed import Measuring, Speed, advise
from tests.cli.shell import Shell
from tests.servers.fixtures import postgres, running, valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.servers.valkey import ask

__all__ = ["postgres", "running", "valkey"]

LASTING = """
local lasting = 0
for _, key in ipairs(redis.call('KEYS', '*taskq-bench*')) do
  if redis.call('TTL', key) > 60 or redis.call('TTL', key) == -1 then lasting = lasting + 1 end
end
return lasting
""".replace("\n", " ")

SPEED = Speed(
    round_trip=0.001,
    one_by_one=1e3,
    in_flight=1e4,
    in_bulk=1e5,
    processed=1e4,
    worker_cpu=0.9,
    p50=0.002,
    p95=0.003,
    p99=0.004,
)
TRAITS = Traits(
    durability="disk",
    idempotent=True,
    unique=True,
    ordered=True,
    groups=True,
    exclusive=True,
    fenced=True,
    exact_attempts=True,
    max_size=1,
    max_batch=1,
)


def test_the_settings_broker_is_measured(shell: Shell) -> None:
    ran = shell.run("bench", "--seconds", "0.05", "--json")
    (found,) = ran.lines
    assert found["processed"] > 0
    assert found["p50"] <= found["p95"] <= found["p99"]
    assert found["advice"]
    shown = shell.run("bench", "--seconds", "0.05")
    assert "process, one worker" in shown.out
    assert shown.err.split(" ...\n")[:2] == ["defer, one by one", "defer, 100 in flight"]


@pytest.mark.anyio
async def test_nothing_stays_behind_on_redis_for_longer_than_a_minute(valkey: Process) -> None:
    url = queue_on(valkey)
    await Measuring(url).measure(print, 0.05)
    assert ask(valkey, f'EVAL "{LASTING}" 0') == "0"


@pytest.mark.anyio
async def test_nothing_stays_behind_on_postgresql(postgres: Process) -> None:
    url = queue_on(postgres)
    schema = url.partition("schema=")[2].partition("&")[0]
    await Measuring(url).measure(print, 0.05)
    connection = await asyncpg.connect(postgres.url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
        rows = {
            row["tablename"]: await connection.fetchval(f'SELECT count(*) FROM "{schema}"."{row["tablename"]}"')  # noqa: S608
            for row in tables
        }
    finally:
        await connection.close()
    assert {name: count for name, count in rows.items() if count and name != "migrations"} == {}


@pytest.mark.anyio
async def test_an_interrupted_measurement_leaves_nothing_behind(tmp_path: object) -> None:
    measuring = Measuring(f"sqlite:///{tmp_path}/queue.db")
    with anyio.CancelScope() as scope:

        def step(name: str) -> None:
            if name == "process":
                scope.cancel()

        await measuring.measure(step, 0.05)
    async with App(f"sqlite:///{tmp_path}/queue.db") as app:
        (left,) = await app.admin.stats([measuring.queue])
        assert (left.ready, left.leased, left.later, left.dead) == (0, 0, 0, 0)


def test_a_deployment_in_order_gets_little_advice() -> None:
    assert [advice.finding for advice in advise(TRAITS, SPEED, busy=False)] == ["the worker process uses 90% of a core"]


def test_what_is_slow_is_named_with_its_remedy() -> None:
    speed = replace(SPEED, round_trip=0.01, p50=0.5, worker_cpu=0.1)
    given = advise(replace(TRAITS, durability="process"), speed, busy=False)
    assert [advice.finding for advice in given] == [
        "one defer takes 10.0 ms",
        "a job starts 500 ms after its defer, 50 round trips",
        "the worker process uses 10% of a core",
        "a crash of the server may lose everything",
    ]
    assert all(advice.remedy for advice in given)


def test_on_a_machine_with_other_work_the_figures_are_doubted_first() -> None:
    first, *_ = advise(TRAITS, replace(SPEED, worker_cpu=0.1), busy=True)
    assert first.finding == "this machine has other work"
