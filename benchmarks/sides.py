"""Who is measured: each side with its program, its environment and its best settings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

Kind = Literal["taskq", "limit", "asyncio", "blocking", "foreign"]
"""taskq, the bare loop around its server calls, or a peer: on asyncio, on threads or processes, in another language."""


class Side(Struct, frozen=True, kw_only=True):
    """One side, and how many jobs keep it busy for about half a second."""

    name: str
    program: str
    environment: str = ""
    """Of its own; "" is ours."""
    jobs: int
    naps: int = 2_000
    defers: int = 1_000
    slots: int = 100
    options: Mapping[str, Any] = {}
    kind: Kind = "asyncio"
    slow: bool = False
    """Measured in the full profile only."""


def peer(name: str, program: str = "", **settings: Any) -> Side:
    """A peer whose environment has its program's name."""
    program = program or name
    return Side(name=name, program=program, environment=program, **settings)


def on_node(name: str, program: str, **settings: Any) -> Side:
    """A peer on node; they share an environment."""
    return Side(name=name, program=program, environment="node", kind="foreign", **settings)


TASKQ = Side(name="taskq", program="ours", kind="taskq", jobs=20_000, naps=8_000, defers=4_000)

REDIS: Sequence[Side] = (
    TASKQ,
    Side(name="bare loop", program="bare_redis", jobs=20_000, naps=8_000, defers=4_000, kind="limit"),
    peer("streaq", jobs=1_000, naps=2_000),
    peer("saq", jobs=1_500),
    peer("arq", jobs=1_500),
    peer("taskiq list", "taskiq", jobs=2_000, naps=3_000, options={"shape": "list"}),
    peer("taskiq stream", "taskiq", jobs=2_000, naps=3_000, options={"shape": "stream"}),
    peer("docket", jobs=2_000, naps=1_500, slow=True),
    peer("dramatiq", jobs=3_000, naps=1_500, kind="blocking", slow=True),
    peer("huey", jobs=3_000, naps=1_500, defers=2_000, kind="blocking"),
    peer("celery", jobs=1_000, naps=500, kind="blocking", slow=True),
    peer("rq", jobs=400, naps=100, kind="blocking", slow=True),
    on_node("BullMQ", "bullmq", jobs=10_000, naps=4_000, defers=3_000),
    Side(name="Sidekiq", program="sidekiq", environment="ruby", kind="foreign", jobs=6_000, naps=2_000, defers=3_000),
)

POSTGRES: Sequence[Side] = (
    TASKQ,
    Side(name="bare loop", program="bare_verbs", jobs=20_000, naps=8_000, defers=2_000, kind="limit"),
    peer("pgqueuer", jobs=15_000, naps=8_000, options={"batch": 100}),
    peer("procrastinate", jobs=600, naps=600),
    peer("saq", jobs=1_000, naps=1_000),
    peer("awa", jobs=4_000, naps=3_000),
    on_node("graphile-worker", "graphile-worker", jobs=15_000, naps=6_000),
)


def paired(companion: str) -> Side:
    """taskq on SQS with this database beside it."""
    name, options = f"taskq, {companion} as companion", {"companion": companion}
    return Side(name=name, program="ours", kind="taskq", jobs=300, defers=40, options=options)


SQS: Sequence[Side] = (
    Side(name="taskq", program="ours", kind="taskq", jobs=5_000, defers=500),
    Side(name="bare calls", program="bare_sqs", jobs=20_000, defers=1_000, kind="limit"),
    peer("taskiq", "taskiq_sqs", jobs=1_000, defers=200),
    peer("celery", "celery_sqs", jobs=500, defers=200, kind="blocking"),
    *map(paired, ("Valkey", "PostgreSQL", "SQLite")),
)
