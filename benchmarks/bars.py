"""What is asked of taskq beside others, who is near enough to count for it, and whether it is met."""

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

from benchmarks.beside import Row, Table, ratio
from benchmarks.measure import Comparison, Series
from benchmarks.sides import Kind

PYTHON: tuple[Kind, ...] = ("asyncio", "blocking")
ANY: tuple[Kind, ...] = ("asyncio", "blocking", "foreign")
CARELESS = ("huey", "taskiq list", "Sidekiq")
"""They take a job off the server and keep no lease: a worker that dies loses it."""


CLOSE = 1.25
"""Who is farther than this from the best does not become it in another round: they differ by a tenth."""


class Bar(Struct, frozen=True, kw_only=True):
    """One figure of taskq to the best of some others."""

    table: str
    ours: str = "taskq"
    """The row that is judged."""
    figure: str = "rate"
    unit: str = "jobs/s"
    beside: str
    """Who they are, in words."""
    kinds: tuple[Kind, ...] = ()
    sides: tuple[str, ...] = ()
    """By kind, or by name."""
    without: tuple[str, ...] = ()
    ideal: float = 0.0
    """Or a figure that is set, as one that nobody can beat."""
    least: float = 0.0
    most: float = math.inf


BARS: Sequence[Bar] = (
    Bar(table="redis/noop", beside="the fastest Python peer", kinds=PYTHON, least=10),
    Bar(
        table="redis/noop",
        beside="the fastest Python peer that keeps a lease",
        kinds=PYTHON,
        without=CARELESS,
        least=10,
    ),
    Bar(table="redis/noop", beside="the fastest in another language", kinds=("foreign",), least=2.5),
    Bar(table="redis/noop", beside="the same verbs in a bare loop", kinds=("limit",), least=0.5),
    Bar(
        table="redis/noop",
        figure="cpu",
        unit="µs of worker CPU",
        beside="the leanest Python peer",
        kinds=PYTHON,
        most=0.1,
    ),
    Bar(
        table="redis/noop",
        figure="cpu",
        unit="µs of worker CPU",
        beside="the leanest Python peer that keeps a lease",
        kinds=PYTHON,
        without=CARELESS,
        most=0.1,
    ),
    Bar(table="redis/nap", beside="the ideal", ideal=10_000, least=0.8),
    Bar(table="redis/one", beside="the best asyncio peer", kinds=("asyncio",), least=1.8),
    Bar(table="redis/one", beside="a bare awaited EVALSHA", kinds=("limit",), least=0.75),
    Bar(table="redis/flight", beside="the fastest Python peer", kinds=PYTHON, least=5),
    Bar(table="redis/flight", beside="BullMQ", sides=("BullMQ",), least=2),
    Bar(table="redis/bulk", beside="the fastest Python peer", kinds=PYTHON, least=6),
    Bar(table="redis/bulk", beside="Sidekiq", sides=("Sidekiq",), least=0.9),
    Bar(table="redis/idle", figure="p50", unit="ms", beside="the best asyncio peer", kinds=("asyncio",), most=1.0),
    Bar(
        table="redis/idle",
        figure="p50",
        unit="ms",
        beside="the best asyncio peer that keeps a lease",
        kinds=("asyncio",),
        without=CARELESS,
        most=1.0,
    ),
    Bar(table="postgres/noop", beside="the fastest Python peer", kinds=PYTHON, least=2.5),
    Bar(table="postgres/noop", beside="procrastinate", sides=("procrastinate",), least=15),
    Bar(table="postgres/noop", beside="graphile-worker in batches", sides=("graphile-worker",), least=1),
    Bar(table="postgres/noop", beside="the same verbs in a bare loop", kinds=("limit",), least=0.5),
    Bar(
        table="postgres/noop",
        figure="wal",
        unit="bytes of WAL",
        beside="the leanest peer of any language",
        kinds=ANY,
        most=1.0,
    ),
    Bar(table="postgres/nap", beside="the ideal", ideal=10_000, least=0.8),
    Bar(table="postgres/one", beside="the best peer of any language", kinds=ANY, least=1),
    Bar(table="postgres/flight", beside="the best peer of any language", kinds=ANY, least=6),
    Bar(table="postgres/bulk", beside="the best peer of any language", kinds=ANY, least=1.2),
    Bar(
        table="sqs/noop",
        figure="cpu",
        unit="µs of worker CPU",
        beside="the leanest Python peer",
        kinds=PYTHON,
        most=0.25,
    ),
    Bar(table="sqs/noop", beside="the fastest Python peer", kinds=PYTHON, least=4),
    Bar(table="sqs/noop", beside="bare calls, which show that the server is not the limit", kinds=("limit",), most=0.5),
    Bar(table="sqs/idle", figure="p99", unit="ms", beside="what is promised", ideal=1_500, most=1),
    Bar(
        table="sqs/idle",
        ours="taskq, Valkey as companion",
        figure="p99",
        unit="ms",
        beside="what is promised with a companion",
        ideal=1_500,
        most=1,
    ),
    Bar(table="postgres/idle", figure="p50", unit="ms", beside="the best peer of any language", kinds=ANY, most=0.7),
    *(
        Bar(table=f"{name}/scaling-cpu", ours="2 processes", beside="one process", sides=("1 process",), least=1.7)
        for name in ("redis", "postgres")
    ),
    *(
        Bar(table=f"{name}/features", ours="a batch's members", beside="plain jobs", sides=("plain",), least=0.7)
        for name in ("redis", "postgres")
    ),
    Bar(
        table="redis/scaling-cpu",
        ours="2 processes",
        figure="server",
        unit="% of a core for the server",
        beside="a tenth of it",
        ideal=10,
        most=1.0,
    ),
)


def judge(tables: Sequence[Table]) -> list[Comparison]:
    """Each bar of these tables; a bar nobody could be measured for says so."""
    return [found for table in tables for bar in BARS if bar.table == table.key for found in _judge(bar, table)]


def near(table: Table) -> set[str]:
    """The sides whose further rounds can change a bar: ours, and those that come close to the best beside it."""
    found: set[str] = set()
    for bar in BARS:
        if bar.table == table.key:
            asked = _asked(bar, table)
            found.add(bar.ours)
            if best := _best(bar, asked):
                found |= {row.side for row in asked if _apart(bar, row, best) <= CLOSE}
    return found


def _apart(bar: Bar, row: Row, best: Row) -> float:
    """How many times better the best is."""
    one, two = row.median(bar.figure), best.median(bar.figure)
    return two / one if bar.least else one / two


def _judge(bar: Bar, table: Table) -> list[Comparison]:
    ours = table.row(bar.ours)
    if ours is None:
        return []
    share, others = _beside(bar, table, ours)
    sides = [Series(bar.ours, ours.figures(bar.figure)), *others]
    wanted = f"at least {bar.least:g} ×" if bar.least else f"at most {bar.most:g} ×"
    met = share is not None and bar.least <= share <= bar.most
    return [Comparison(_question(bar, table), bar.unit, sides, share, wanted, met)]


def _beside(bar: Bar, table: Table, ours: Row) -> tuple[float | None, list[Series]]:
    """The ratio, and what it is a ratio to."""
    if bar.ideal:
        return ours.median(bar.figure) / bar.ideal, [Series(bar.beside.removeprefix("the "), [bar.ideal])]
    best = _best(bar, _asked(bar, table))
    if best is None:
        return None, []
    return ratio(ours, best, bar.figure), [Series(best.side, best.figures(bar.figure))]


def _question(bar: Bar, table: Table) -> str:
    name = table.key.partition("/")[0].replace("redis", "Redis").replace("postgres", "PostgreSQL").replace("sqs", "SQS")
    what = table.title if bar.ours == "taskq" else f"{table.title}: {bar.ours}"
    return f"{name}: {what}, beside {bar.beside}"


def _asked(bar: Bar, table: Table) -> list[Row]:
    """All that it speaks of."""
    return [
        row for row in table.rows if (row.kind in bar.kinds or row.side in bar.sides) and row.side not in bar.without
    ]


def _best(bar: Bar, rows: Sequence[Row]) -> Row | None:
    measured = [row for row in rows if row.figures(bar.figure)]
    if not measured:
        return None
    choose = max if bar.least else min
    return choose(measured, key=lambda row: statistics.median(row.figures(bar.figure)))
