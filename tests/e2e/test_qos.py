"""AS-28: a delivery guarantee is kept by queue and worker together, whatever happens to both."""

import platform
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest
from msgspec import Struct

from taskq.testing.faults import Front, Rates, sqs_front
from taskq.testing.history import Answered, Ended, Happened, Killed, Line, Settling, Started
from tests.backends.sqs.deployment import Tenant
from tests.backends.sqs.test_sqs_faults import BAD
from tests.e2e.harness import LONG, PATIENCE, Client, Crew, Fleet, client
from tests.e2e.qos import GUARANTEES, charges, declare, prepare
from tests.e2e.worker import POINTS
from tests.servers.process import Process
from tests.servers.proxy import Proxy, proxied
from tests.servers.tenants import queue_on

Fault = Callable[[], Awaitable[None]]
Report = Callable[[str, str], None]

SEED = 28
LEASE = 2.0 if LONG else 1.0
OUTAGE = 1.5 * LEASE
CUT_OFF = ", half of them are cut off for longer than a lease"

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


class World(Struct, frozen=True, kw_only=True):
    """A queue, and what befalls it."""

    url: str
    detour: str
    faults: Mapping[str, Fault]
    doings: Counter[str]
    """What happens to messages and calls all the while, and how often it did."""
    beside_kills: str = ""
    """What all this is, in words."""


async def part(proxy: Proxy) -> None:
    """Whoever takes this way is cut off for longer than a lease."""
    proxy.deaf = frozenset({True, False})
    await anyio.sleep(OUTAGE)
    proxy.deaf = frozenset()


async def lose_answers(proxy: Proxy) -> None:
    for _ in range(8):
        proxy.cutting = True
        await anyio.sleep(0.1)


async def restart(server: Process) -> None:
    server.kill()
    await anyio.sleep(OUTAGE)
    server.start()


async def fail(front: Front, companion: Process | None) -> None:
    """Nothing but 5xx; the companion's server dies meanwhile."""
    front.rates = Rates(fail=1.0)
    if companion is not None:
        companion.kill()
    await anyio.sleep(OUTAGE)
    if companion is not None:
        companion.start()
    front.rates = BAD


@asynccontextmanager
async def on_a_server(server: Process) -> AsyncGenerator[World]:
    """Redis or PostgreSQL."""
    patience = "patience={0}" if server.url.startswith("redis") else "command_timeout={0}&connect_timeout={0}"
    url = f"{queue_on(server)}&{patience.format(LEASE / 2)}"
    async with proxied(server.port) as (proxy, port):
        faults: Mapping[str, Fault] = {
            "partition": partial(part, proxy),
            "eight answers lost": partial(lose_answers, proxy),
            "failover": partial(restart, server),
        }
        yield World(
            url=url,
            detour=url.replace(f":{server.port}", f":{port}"),
            faults=faults,
            doings=Counter(),
            beside_kills=f"{CUT_OFF}, answers are lost, and the server is killed",
        )


@asynccontextmanager
async def on_sqs(emulator: Process, companion: Process | None) -> AsyncGenerator[World]:
    """SQS on its bad day; the companion's server dies when SQS fails."""
    async with sqs_front(emulator.url, BAD, seed=SEED) as front:
        behind = urlsplit(front.url).port
        assert behind is not None
        url = Tenant(emulator, front.url, patience=2).url
        async with proxied(behind) as (proxy, port):
            faults: Mapping[str, Fault] = {
                "partition": partial(part, proxy),
                "failover": partial(fail, front, companion),
            }
            dead = "" if companion is None else ", while the companion's Redis is dead"
            yield World(
                url=url,
                detour=url.replace(f":{behind}", f":{port}"),
                faults=faults,
                doings=front.done,
                beside_kills=f"{CUT_OFF}, messages come twice, and calls fail, for a while all of them{dead}",
            )


@pytest.fixture(params=["sqs-companion", *(["sqs", "sqlite", "redis", "postgresql"] if LONG else [])])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[World]:
    match request.param:
        case "sqlite":
            yield World(url=f"sqlite:///{tmp_path}/taskq.db", detour="", faults={}, doings=Counter())
        case "redis" | "postgresql":
            own = {"redis": "own_redis", "postgresql": "own_postgres"}[request.param]
            async with on_a_server(request.getfixturevalue(own)) as world:
                yield world
        case _:
            alone = request.param == "sqs"
            companion: Process | None = None if alone else request.getfixturevalue("own_redis")
            if companion is not None:
                monkeypatch.setenv("TASKQ_COMPANION", queue_on(companion))
            async with on_sqs(request.getfixturevalue("sqs"), companion) as world:
                yield world


class Told:
    """What the journals of all processes tell so far; each line is read once."""

    def __init__(self, directory: Path) -> None:
        self.acknowledged: set[str] = set()
        self.starts: Counter[str] = Counter()
        self.completed: set[str] = set()
        self.aside: set[str] = set()
        self.kills: Counter[str] = Counter()
        self._directory = directory
        self._read: Counter[Path] = Counter()
        self._lines = msgspec.json.Decoder(Line)

    def read(self) -> Self:
        """Read on."""
        for path in self._directory.glob("*.journal"):
            with path.open("rb") as journal:
                journal.seek(self._read[path])
                for line in journal:
                    # What a kill has left of a last line is none, and what is not whole yet will be.
                    if line.endswith(b"\n"):
                        self._read[path] += len(line)
                        self._take(self._lines.decode(line).what)
        return self

    def _take(self, what: Happened) -> None:
        match what:
            case Answered(jobs, "ok"):
                self.acknowledged.update(jobs)
            case Started(job):
                self.starts[job] += 1
            case Ended(job, returned=True):
                self.completed.add(job)
            case Settling(job, how="dead-letter"):
                self.aside.add(job)
            case Killed(point):
                self.kills[point] += 1
            case _:
                pass

    @property
    def unfinished(self) -> set[str]:
        """Jobs of which there is no word."""
        return self.acknowledged - self.completed - self.aside

    def of(self, jobs: set[str]) -> Mapping[str, int]:
        """What has become of these."""
        sure = self.acknowledged & jobs
        return {
            "acknowledged": len(sure),
            "completed": len(sure & self.completed),
            "set aside": len(sure & self.aside - self.completed),
            "neither": len(sure & self.unfinished),
            "started again": sum(self.starts[job] > 1 for job in jobs),
        }

    def effects(self, jobs: set[str]) -> Mapping[str, int]:
        """What these have done."""
        done = charges(self._directory / "domain.db")
        missing = len(self.acknowledged & jobs - done.keys())
        return {"no effect": missing, "several effects": sum(done.get(job, 0) > 1 for job in jobs)}


async def done(fleet: Fleet, told: Told, but: int = 0) -> None:
    """Wait until there is word of all jobs but so many."""
    with anyio.fail_after(10 * PATIENCE if LONG else 2 * PATIENCE):
        while len(told.read().unfinished) > but:
            fleet.revive()
            await anyio.sleep(0.25)


async def befall(
    world: World, fleet: Fleet, customer: Client, told: Told, *, jobs: int, portion: int
) -> Mapping[str, set[str]]:
    """Let all of it happen, in turn, until there are so many jobs of each guarantee; which those are."""
    chance, points = random.Random(SEED), cycle(["at random", *POINTS])
    deferred = {name: set[str]() for name in GUARANTEES if name in customer.app.registry.tasks}

    async def kill() -> None:
        place, point = chance.randrange(fleet.crew.workers), next(points)
        if point in POINTS:
            fleet.order(place, point, chance.randint(1, 3))
        else:
            await anyio.sleep(chance.uniform(0.0, 0.2))
            fleet.kill(place)

    while min(len(told.read().acknowledged & each) for each in deferred.values()) < jobs:
        for name, fault in [*world.faults.items(), ("kill", kill)]:
            # An emulator grows slow with its queue.
            await done(fleet, told, but=portion)
            fleet.revive()
            begun, known = told.starts.total(), len(told.acknowledged)
            for guarantee, names in deferred.items():
                calls = customer.calls(guarantee, [[chance.uniform(0.0, 0.2)] for _ in range(portion)])
                names.update(call.job.id for call in calls)
                await customer.defer(calls)
            with anyio.fail_after(PATIENCE):
                while len(told.read().acknowledged) > known and told.starts.total() == begun:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            await fault()
            if fault is not kill:
                world.doings[name] += 1
    return deferred


async def test_as_28_every_guarantee_is_kept_whatever_befalls_workers_network_messages_and_servers(
    world: World, tmp_path: Path, rounds: Callable[[int, int], int], report: Report, request: pytest.FixtureRequest
) -> None:
    crew = Crew(
        url=world.url,
        detour=world.detour,
        workers=rounds(2, 4),
        slots=20,
        lease=LEASE,
        program="tests.e2e.qos",
    )
    prepare(tmp_path / "domain.db")
    told = Told(tmp_path)
    with Fleet(tmp_path, crew) as fleet:
        async with client(fleet, declare) as customer:
            deferred = await befall(world, fleet, customer, told, jobs=rounds(40, 10_000), portion=rounds(20, 250))
            await done(fleet, told)
    tales = {name: told.read().of(jobs) for name, jobs in deferred.items()}
    tales["guarded"] = {**tales["guarded"], **told.effects(deferred["guarded"])}
    kills = {f"killed: {point}": times for point, times in told.kills.items()}
    name = request.node.callspec.id
    report(f"qos-{name}", page(name, crew, world, tales, {**world.doings, **kills}))
    assert all(tale["neither"] == 0 for tale in tales.values())
    assert all(tale["set aside"] == 0 for guarantee, tale in tales.items() if guarantee != "at_most_once")
    assert "at_most_once" not in tales or tales["at_most_once"]["started again"] == 0
    assert tales["guarded"]["no effect"] == tales["guarded"]["several effects"] == 0


def page(name: str, crew: Crew, world: World, tales: Mapping[str, Mapping[str, int]], doings: Mapping[str, int]) -> str:
    """What the run has shown."""
    titles = list(tales["guarded"])
    shown = "\n".join(
        " | ".join([f"| `{guarantee}`", *(str(tale.get(title, "")) for title in titles)]) + " |"
        for guarantee, tale in tales.items()
    )
    happened = "\n".join(f"| {what} | {times} |" for what, times in sorted(doings.items()))
    return (
        f"# Delivery guarantees under faults: {name}\n\n"
        f"{crew.workers} worker processes ({crew.slots} slots each, leases of {crew.lease:g} s) run jobs of every "
        "guarantee that the queue declares, side by side, while workers die by SIGKILL at named points and at random"
        f"{world.beside_kills}. `guarded` is the way to exactly one effect: the effect has the job's key, and comes at "
        "the end of the run. A job that runs at most once is never started again; one that is set aside says "
        "so as a dead letter.\n\n"
        f"| guarantee | {' | '.join(titles)} |\n|---|{'---:|' * len(titles)}\n{shown}\n\n"
        f"| what happened | times |\n|---|---:|\n{happened}\n\n"
        f"Written by `make test-long`, seed {SEED}, Python {platform.python_version()}.\n"
    )
