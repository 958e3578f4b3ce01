"""The benchmark's programs that stand on our own code do what they are ordered, so that they do not rot."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks import defer, grounds, processing, scaling, shapes
from benchmarks.bars import judge, near
from benchmarks.beside import Row, Table, ratio, side_by_side
from benchmarks.driver import Uncounted, do, prepare
from benchmarks.environments import PEERS, ROOT, Missing, command_of
from benchmarks.grounds import Ground
from benchmarks.peers.recorder import Order, send_blocking
from benchmarks.report import Section, bars_of, rows_of
from benchmarks.sides import POSTGRES, REDIS, TASKQ, Side
from tests.servers.postgres import postgres

GROUNDS: dict[str, tuple[Callable[[], AbstractContextManager[Ground]], Sequence[Side]]] = {
    "redis": (grounds.redis, REDIS),
    "postgres": (grounds.postgresql, POSTGRES),
}


@pytest.mark.parametrize("name", GROUNDS)
def test_ours_and_the_bare_loop_end_each_job_once(name: str) -> None:
    opened, sides = GROUNDS[name]
    ours = [replace(side, jobs=50, defers=10) for side in sides if side.kind in ("taskq", "limit")]
    with opened() as ground:
        for side in ours:
            prepare(side, ground)
        tables = [processing.ask(ground, ours, "noop", 1), defer.ask(ground, ours, "one", 1)]
    for table in tables:
        assert [(row.side, len(row.figures("rate")), row.dirty) for row in table.rows] == [
            (side.name, 1, []) for side in ours
        ]
    assert {comparison.sides[1].name for comparison in judge(tables) if comparison.ratio} == {ours[1].name}


def test_processes_that_share_the_work_end_each_job_once() -> None:
    with grounds.redis() as ground:
        table = scaling.ask(ground, "cpu", 1, jobs=50, processes={"2 processes": 2})
    assert [(row.side, len(row.figures("rate")), row.dirty) for row in table.rows] == [("2 processes", 1, [])]


async def promises_of(url: str, shape: shapes.Shape) -> None:
    async with shapes.connected(url) as connection:
        await shapes.filled(connection, shape, 3)

        async def claim(limit: int, lease: float, token: int) -> list[tuple[str, int]]:
            return [(row["id"][-1], row["fence"]) for row in await connection.fetch(shape.claim, limit, lease, token)]

        async def ack(number: int, token: int) -> int:
            return len(await connection.fetch(shape.ack, [f"{number:032}"], token))

        assert await claim(2, 60, 1) == [("0", 1), ("1", 1)]
        assert await claim(1, 0, 2) == [("2", 1)]
        await connection.execute(shape.sweep)
        assert await claim(3, 60, 3) == [("2", 2)]
        assert [await ack(2, 2), await ack(2, 3), await ack(2, 3), await ack(0, 1)] == [0, 1, 0, 1]
        assert await claim(3, 60, 4) == []


def test_each_shape_of_tables_that_is_measured_keeps_the_same_promises() -> None:
    with postgres() as server:
        for shape in shapes.SHAPES:
            asyncio.run(promises_of(server.url, shape))
        row = asyncio.run(shapes.measure(server.url, shapes.SHAPES[-1], 2500, 500))
    assert row.startswith("| a ready and a leased table, rows moved |")


def test_a_run_whose_ledger_is_not_clean_does_not_count() -> None:
    tries: list[str] = []

    def once(side: Side) -> dict[str, float]:
        tries.append(side.name)
        raise Uncounted("lost: 1")

    table = side_by_side("redis/noop", "nothing", [("rate", "jobs/s")], [TASKQ], once, 1)
    assert tries == ["taskq", "taskq"]
    assert table.row("taskq") is None
    assert rows_of(table)[-1] == "| taskq | 0 of 1 clean; not counted: 2 (lost: 1) |"


def test_a_worker_that_did_not_run_all_its_jobs_does_not_count() -> None:
    with grounds.redis() as ground, pytest.raises(Uncounted, match="complete"):
        do(TASKQ, ground, ground.fresh(""), "work", jobs=2, goal=1, patience=0.1)


def test_a_producer_of_which_a_thread_failed_does_not_count() -> None:
    def one(number: int, _content: str) -> None:
        if number == 7:
            raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        send_blocking(Order(role="defer", url="", jobs=10, how="flight"), one)


def test_a_program_that_ends_by_itself_does_not_count() -> None:
    program = "from benchmarks.peers.recorder import serve; serve('', {'work': lambda order: None})"
    done = run_with(sys.executable, "-c", program, json.dumps({"role": "work", "url": ""}))
    assert (done.returncode, done.stdout) == (1, "")


PLANTED = {
    "planted.py": f"""
import json, sys, time
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.peers.recorder import Ledger, Order
job = Ledger(Order(**json.loads(sys.argv[1]))).blocking_handler()
for number in (0, 1, 1, 9):
    job(number, "")
time.sleep(60)
""",
    "planted.mjs": f"""
import {{ ledger }} from "{PEERS}/node/recorder.mjs";
const job = ledger();
for (const number of [0, 1, 1, 9]) await job(number, "");
""",
    "planted.rb": f"""
require "{PEERS}/ruby/recorder"
ledger = Ledger.new
[0, 1, 1, 9].each {{ |number| ledger.run(number, "") }}
sleep 60
""",
}
INTERPRETERS = {".py": sys.executable, ".mjs": "node", ".rb": "ruby"}


@pytest.mark.parametrize("name", PLANTED)
def test_the_ledger_of_each_language_finds_what_was_planted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / name
    interpreter = INTERPRETERS[program.suffix]
    if shutil.which(interpreter) is None:
        pytest.skip(f"{interpreter} is not found here")
    monkeypatch.setenv("BENCH_NODE", str(tmp_path))
    program.write_text(PLANTED[name], encoding="utf-8")
    done = run_with(interpreter, str(program), json.dumps({"role": "work", "url": "", "jobs": 4}))
    answer = json.loads(done.stdout.splitlines()[-1])
    found = {said: answer[said] for said in ("lost", "duplicated", "unexplained", "complete")}
    assert found == {"lost": 2, "duplicated": 1, "unexplained": 1, "complete": True}


def run_with(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_after_two_rounds_only_who_is_near_a_bar_is_measured_again() -> None:
    rates = {"taskq": 100.0, "saq": 10.0, "arq": 9.0, "streaq": 5.0}

    def once(side: Side) -> dict[str, float]:
        return {"rate": rates[side.name]}

    sides = [side for side in REDIS if side.name in rates]
    table = side_by_side("redis/one", "defer, one by one", [("rate", "jobs/s")], sides, once, 5, near)
    assert {row.side: len(row.rounds) for row in table.rows} == {"taskq": 5, "saq": 5, "arq": 5, "streaq": 2}
    assert near(Table("redis/payload", "", [], table.rows)) == set()


def test_a_peer_in_ruby_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="apt install ruby-sidekiq"):
        command_of("ruby", "sidekiq")


def test_a_peer_that_is_not_there_is_skipped_with_the_reason() -> None:
    def once(_side: Side) -> dict[str, float]:
        raise Missing("no node")

    table = side_by_side("redis/noop", "nothing", [("rate", "jobs/s")], [TASKQ], once, 3)
    assert rows_of(table)[-1] == "| taskq | no node |"


def test_a_ratio_is_taken_inside_a_round() -> None:
    ours = Row("taskq", "taskq", [{"rate": 10.0}, {"rate": 100.0}, {}])
    other = Row("peer", "asyncio", [{"rate": 1.0}, {"rate": 10.0}, {"rate": 1.0}])
    assert ratio(ours, other, "rate") == 10.0


def test_a_bar_that_nobody_could_be_measured_for_says_so() -> None:
    rows = [Row("taskq", "taskq", [{"rate": 10.0}]), Row("saq", "asyncio", skipped="it has no bulk call")]

    (found, _) = judge([Table("redis/bulk", "defer, 1,000 a call", [], rows)])

    assert (found.ratio, found.met) == (None, False)
    section = Section("today", "short", {}, {}, [found])
    assert "| – | not measured | at least 6 × | – |" in bars_of({"redis": section})


def test_a_bar_that_is_missed_says_so() -> None:
    rows = [Row("taskq", "taskq", [{"rate": 10.0}]), Row("saq", "asyncio", [{"rate": 5.0}])]
    (found,) = judge([Table("redis/one", "defer, one by one", [], rows)])[:1]
    assert (found.ratio, found.met) == (2.0, True)
    rows[1].rounds[0]["rate"] = 9.0
    assert not judge([Table("redis/one", "defer, one by one", [], rows)])[0].met
    assert bars_of({}).startswith("| question")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are counted by /proc")
def test_the_cpu_of_a_process_is_counted() -> None:
    from benchmarks.peers.recorder import burn, cpu_of

    before = cpu_of(os.getpid())
    while cpu_of(os.getpid()) == before:
        burn()
    assert cpu_of(0) == 0.0
