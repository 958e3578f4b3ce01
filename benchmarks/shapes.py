"""What shapes of PostgreSQL's tables cost: ``python -m benchmarks.shapes`` prints the table of the page of decisions.

Each shape keeps the same jobs and the same promises: a claim leases due jobs in order, passing over what others lock,
and fences each; a settlement counts for its own claim only; a lease that ended makes its job ready again.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

import asyncpg
from msgspec import Struct

from benchmarks.grounds import DURABLE
from tests.servers.postgres import postgres

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BODY = bytes(92)
BATCHES = (10, 100, 500)
PARTS = 5
"""How often as many jobs are run beside an open transaction."""
SWEEPS = 20
"""A sweep for leases that ended comes after so many batches."""


class Shape(Struct, frozen=True):
    """Statements that keep jobs in one way."""

    name: str
    tables: str
    enqueue: str
    """Of $1 ids and $2 bodies."""
    claim: str
    """Of $1 jobs at most, for $2 seconds, under the token $3: id, body, fence."""
    ack: str
    """Of $1 ids that are leased under the token $2: those that were."""
    sweep: str
    """Makes ready what was leased for too long."""


CLOCK = "extract(epoch FROM clock_timestamp())::float8"
QUIET = "autovacuum_enabled = off"
COLUMNS = """due float8 NOT NULL, token bigint, fence bigint NOT NULL DEFAULT 0, priority integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 1, losses integer NOT NULL DEFAULT 0, state text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL"""
CALL = """task text COLLATE "C" NOT NULL, body bytea NOT NULL"""
LINES = """CREATE INDEX ON jobs (queue, priority DESC, due, seq) WHERE state = 'ready';
    CREATE INDEX ON jobs (queue, due) WHERE state = 'leased';"""
READY = "WHERE queue = 'q' AND state = 'ready' ORDER BY priority DESC, due, seq LIMIT $1 FOR UPDATE SKIP LOCKED"
PUT = f"""INSERT INTO jobs (due, state, queue, id, task, body)
    SELECT {CLOCK}, 'ready', 'q', id, 'task', body FROM unnest($1::text[], $2::bytea[]) AS new (id, body)
    ON CONFLICT (queue, id) DO NOTHING"""
ACK = "DELETE FROM jobs WHERE queue = 'q' AND id = ANY ($1::text[]) AND token = $2::bigint RETURNING id"
SWEEP = f"""UPDATE jobs SET state = 'ready', losses = losses + 1
    WHERE queue = 'q' AND state = 'leased' AND due <= {CLOCK}"""


def one_table(name: str, key: str, fill: int) -> Shape:
    """A column says the state."""
    return Shape(
        name=name,
        tables=f"""CREATE TABLE jobs (seq bigserial{key}, {COLUMNS}, {CALL}) WITH ({QUIET}, fillfactor = {fill});
            CREATE UNIQUE INDEX ON jobs (queue, id); {LINES}""",
        enqueue=PUT,
        claim=f"""WITH front AS MATERIALIZED (SELECT ctid FROM jobs {READY})
            UPDATE jobs SET state = 'leased', due = {CLOCK} + $2::float8, token = $3::bigint, fence = fence + 1
            FROM front WHERE jobs.ctid = front.ctid RETURNING id, body, fence""",
        ack=ACK,
        sweep=SWEEP,
    )


SHAPES = [
    one_table("one table, `seq` as key", " PRIMARY KEY", 100),
    one_table("the same, fillfactor 50", " PRIMARY KEY", 50),
    one_table("one table, no key but `(queue, id)`", "", 100),
    one_table("the same, fillfactor 70", "", 70),
    one_table("the same, fillfactor 50", "", 50),
    Shape(
        name="**the same, and a claim leaves its job in the line**",
        tables=f"""CREATE TABLE jobs (seq bigserial, held_until float8, {COLUMNS}, {CALL})
                WITH ({QUIET}, fillfactor = 50);
            CREATE UNIQUE INDEX ON jobs (queue, id); {LINES}""",
        enqueue=PUT,
        # No index knows of the lease; whoever comes next passes over it. What is claimed again was lost.
        claim=f"""WITH now AS MATERIALIZED (SELECT {CLOCK} AS now), front AS MATERIALIZED (
                SELECT ctid FROM jobs
                WHERE queue = 'q' AND state = 'ready' AND (held_until IS NULL OR held_until <= (SELECT now FROM now))
                ORDER BY priority DESC, due, seq LIMIT $1 FOR UPDATE SKIP LOCKED)
            UPDATE jobs SET held_until = now + $2::float8, token = $3::bigint, fence = fence + 1,
                losses = losses + (token IS NOT NULL)::integer
            FROM front, now WHERE jobs.ctid = front.ctid RETURNING id, body, fence""",
        ack=ACK,
        sweep=SWEEP,
    ),
    Shape(
        name="immutable payload, rows in a ready and a lease table",
        tables=f"""CREATE TABLE payload (queue text COLLATE "C", id text COLLATE "C", {CALL}, PRIMARY KEY (queue, id))
                WITH ({QUIET});
            CREATE TABLE ready (seq bigserial, {COLUMNS}) WITH ({QUIET});
            CREATE INDEX ON ready (queue, priority DESC, due, seq);
            CREATE TABLE leased (LIKE ready, PRIMARY KEY (queue, id)) WITH ({QUIET});
            CREATE INDEX ON leased (queue, due);""",
        enqueue=f"""WITH new AS (
                INSERT INTO payload SELECT 'q', id, 'task', body FROM unnest($1::text[], $2::bytea[]) AS new (id, body)
                ON CONFLICT DO NOTHING RETURNING id)
            INSERT INTO ready (due, state, queue, id) SELECT {CLOCK}, 'ready', 'q', id FROM new""",
        claim=f"""WITH front AS MATERIALIZED (SELECT ctid FROM ready {READY}),
            taken AS (DELETE FROM ready USING front WHERE ready.ctid = front.ctid RETURNING ready.*),
            held AS (INSERT INTO leased
                SELECT seq, {CLOCK} + $2::float8, $3::bigint, fence + 1, priority, attempt, losses, 'leased', queue, id
                FROM taken RETURNING id, fence)
            SELECT id, body, fence FROM held JOIN payload USING (id) WHERE queue = 'q'""",
        ack="""WITH ours AS (
                DELETE FROM leased WHERE queue = 'q' AND id = ANY ($1::text[]) AND token = $2::bigint RETURNING id)
            DELETE FROM payload USING ours WHERE queue = 'q' AND payload.id = ours.id RETURNING payload.id""",
        sweep=f"""WITH lost AS (DELETE FROM leased WHERE queue = 'q' AND due <= {CLOCK} RETURNING *)
            INSERT INTO ready SELECT seq, due, token, fence, priority, attempt, losses + 1, 'ready', queue, id
            FROM lost""",
    ),
    Shape(
        name="immutable payload, one narrow row updated",
        tables=f"""CREATE TABLE payload (queue text COLLATE "C", id text COLLATE "C", {CALL}, PRIMARY KEY (queue, id))
                WITH ({QUIET});
            CREATE TABLE jobs (seq bigserial, {COLUMNS}) WITH ({QUIET}, fillfactor = 50);
            CREATE UNIQUE INDEX ON jobs (queue, id); {LINES}""",
        enqueue=f"""WITH new AS (
                INSERT INTO payload SELECT 'q', id, 'task', body FROM unnest($1::text[], $2::bytea[]) AS new (id, body)
                ON CONFLICT DO NOTHING RETURNING id)
            INSERT INTO jobs (due, state, queue, id) SELECT {CLOCK}, 'ready', 'q', id FROM new""",
        claim=f"""WITH front AS MATERIALIZED (SELECT ctid FROM jobs {READY}),
            held AS (UPDATE jobs SET state = 'leased', due = {CLOCK} + $2::float8, token = $3::bigint, fence = fence + 1
                FROM front WHERE jobs.ctid = front.ctid RETURNING id, fence)
            SELECT id, body, fence FROM held JOIN payload USING (id) WHERE queue = 'q'""",
        ack=f"""WITH ours AS ({ACK})
            DELETE FROM payload USING ours WHERE queue = 'q' AND payload.id = ours.id RETURNING payload.id""",
        sweep=SWEEP,
    ),
    Shape(
        name="a ready and a leased table, rows moved",
        tables=f"""CREATE TABLE jobs (seq bigserial, {COLUMNS}, {CALL}) WITH ({QUIET});
            CREATE UNIQUE INDEX ON jobs (queue, id);
            CREATE INDEX ON jobs (queue, priority DESC, due, seq);
            CREATE TABLE leased (LIKE jobs, PRIMARY KEY (queue, id)) WITH ({QUIET});
            CREATE INDEX ON leased (queue, due);""",
        enqueue=PUT,
        claim=f"""WITH front AS MATERIALIZED (SELECT ctid FROM jobs {READY}),
            taken AS (DELETE FROM jobs USING front WHERE jobs.ctid = front.ctid RETURNING jobs.*)
            INSERT INTO leased SELECT seq, {CLOCK} + $2::float8, $3::bigint, fence + 1, priority, attempt, losses,
                'leased', queue, id, task, body FROM taken RETURNING id, body, fence""",
        ack=ACK.replace("jobs", "leased"),
        sweep=f"""WITH lost AS (DELETE FROM leased WHERE queue = 'q' AND due <= {CLOCK} RETURNING *)
            INSERT INTO jobs SELECT seq, due, token, fence, priority, attempt, losses + 1, 'ready', queue, id, task,
                body FROM lost""",
    ),
]

# As the backend's functions fix their plans.
SETTINGS = {
    **dict.fromkeys(
        ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_hashjoin", "enable_mergejoin"), "off"
    ),
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}


class Cost(Struct):
    """What a job has taken, of so many."""

    wal: float
    """Bytes."""
    cpu: float
    """Microseconds of the server's CPU: what waits for the disk waits as often in every shape."""


async def cost_of(connection: Connection, work: Awaitable[None], jobs: int) -> Cost:
    """Of work on so many jobs."""
    wal, cpu = await taken(connection)
    await work
    wal_then, cpu_then = await taken(connection)
    return Cost((wal_then - wal) / jobs, (cpu_then - cpu) / jobs * 1e6)


async def taken(connection: Connection) -> tuple[int, float]:
    """Bytes of the log so far, and seconds of the CPU of this connection's process."""
    wal: int = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return wal, cpu_of(connection.get_server_pid())


def cpu_of(pid: int) -> float:
    """Seconds that a process has computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def enqueue(connection: Connection, shape: Shape, jobs: int) -> None:
    """A thousand in a call."""
    for first in range(0, jobs, 1000):
        ids = [f"{n:032}" for n in range(first, min(first + 1000, jobs))]
        await connection.execute(shape.enqueue, ids, [BODY] * len(ids))


async def run(connection: Connection, shape: Shape, jobs: int, batch: int) -> None:
    """Claimed and settled in batches, one after the other: two statements and two commits each."""
    claim, ack = await connection.prepare(shape.claim), await connection.prepare(shape.ack)
    for number in range(jobs // batch):
        claimed = [row["id"] for row in await claim.fetch(batch, 30.0, number)]
        settled = await ack.fetch(claimed, number)
        assert len(settled) == batch, f"{shape.name}: {len(claimed)} claimed, {len(settled)} settled"
        if not number % SWEEPS:
            await connection.execute(shape.sweep)


async def dead_rows(connection: Connection) -> int:
    """What a VACUUM has to remove."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    found: int = await connection.fetchval("SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables")
    return found


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Connection]:
    """As the backend's functions have their plans."""
    connection: Connection = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        yield connection
    finally:
        await connection.close()


async def filled(connection: Connection, shape: Shape, waiting: int) -> Cost:
    """The shape's tables, anew, with so many jobs."""
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.execute(shape.tables)
    cost = await cost_of(connection, enqueue(connection, shape, waiting), waiting)
    await connection.execute("ANALYZE; CHECKPOINT")
    return cost


async def measure(url: str, shape: Shape, waiting: int, jobs: int) -> str:
    """A row of the table."""
    enqueued: list[Cost] = []
    runs: list[Cost] = []
    left: list[float] = []
    async with connected(url) as connection, connected(url) as other:
        for batch in BATCHES:
            enqueued.append(await filled(connection, shape, waiting))
            runs.append(await cost_of(connection, run(connection, shape, jobs, batch), jobs))
            left.append(await dead_rows(connection) / jobs)
        await filled(connection, shape, waiting)
        async with other.transaction(isolation="repeatable_read"):
            await other.fetchval("SELECT pg_current_xact_id()")
            beside = [await cost_of(connection, run(connection, shape, jobs, 100), jobs) for _ in range(PARTS)]
            kept = await dead_rows(connection) / (PARTS * jobs)
    grows = f"{beside[0].cpu:.0f} → {beside[-1].cpu:.0f}"
    return (
        f"| {shape.name} | {median(cost.wal for cost in enqueued):.0f} | {told(cost.wal for cost in runs)} "
        f"| {median(cost.cpu for cost in enqueued):.0f} | {told(cost.cpu for cost in runs)} "
        f"| {' / '.join(f'{rows:.2f}' for rows in left)} | {kept:.2f} | {grows} |"
    )


def told(figures: Iterable[float]) -> str:
    """In whole numbers."""
    return " / ".join(f"{figure:,.0f}" for figure in figures)


def main() -> None:
    """The table, a row at a time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=__doc__)
    parser.add_argument("shapes", nargs="*", type=int, help="numbers of rows; none: all")
    parser.add_argument("--waiting", type=int, default=100_000, help="jobs that wait at the start")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs that are run, of each size of batch")
    asked = parser.parse_args()
    sizes = " / ".join(map(str, BATCHES))
    print(
        f"| shape | enqueue WAL | run WAL at {sizes} | enqueue µs | run µs at {sizes} | dead rows at {sizes} "
        "| dead rows beside an open transaction | run µs beside it |\n|---|---|---|---|---|---|---|---|"
    )
    with postgres(options=[*DURABLE, "full_page_writes=off"]) as server:
        numbers: list[int] = asked.shapes
        for shape in [SHAPES[number] for number in numbers] or SHAPES:
            print(asyncio.run(measure(server.url, shape, asked.waiting, asked.jobs)), flush=True)


if __name__ == "__main__":
    main()
