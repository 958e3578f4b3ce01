"""AS-13: a process that outgrows its ceiling is replaced and nothing is lost by it; where nothing leaks none grows."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cli.shell import Shell, job
from tests.e2e.harness import LONG

Report = Callable[[str, str], None]

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

LEAKING = """
hoard = []


@app.task(queue="leak", idempotent=True)
async def leak(size: int) -> None:
    hoard.append(b"x" * size)
    await asyncio.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("jobs", "leaked", "ceiling", "slots"),
    [(50_000, 20 << 10, "300M", 10) if LONG else (12, 40 << 20, "150M", 1)],
    ids=["full" if LONG else "sample"],
)
def test_a_process_that_outgrows_its_memory_is_replaced_and_nothing_is_lost(
    tmp_path: Path, report: Report, jobs: int, leaked: int, ceiling: str, slots: int
) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "shop.py").write_text((tmp_path / "shop.py").read_text() + LEAKING)
    options = ["--processes", "2", "--max-memory", ceiling, "--slots", str(slots)]
    with shell.started("worker", "shop", "--log-format", "json", "--log-level", "debug", *options) as program:
        program.line("2 workers serve")
        body = json.dumps({"args": {"size": leaked}}).encode()
        shell.enqueue(*(job(str(n), "leak", task="shop.leak", body=body) for n in range(jobs)))
        for _ in range(jobs):
            program.line("shop.leak returned")
        if not any("replaced" in line for line in program.said):
            program.line("replaced")
        program.send(signal.SIGTERM)
        assert program.code() == 0
    returned = [json.loads(line)["job"] for line in program.said if "shop.leak returned" in line]
    replaced = [json.loads(line)["message"] for line in program.said if "replaced" in line]
    report("memory-ceiling", ceiling_report(jobs, leaked, ceiling, returned, replaced))
    assert sorted(map(int, returned)) == list(range(jobs))
    assert shell.json("jobs", "leak") == []


def ceiling_report(jobs: int, leaked: int, ceiling: str, returned: Sequence[str], replaced: Sequence[str]) -> str:
    """What the run has shown, as a page."""
    most = max(int(line.split("holds ")[1].split()[0]) for line in replaced)
    rows = {
        "jobs": f"{jobs:,}",
        "lost": jobs - len(set(returned)),
        "run twice": len(returned) - len(set(returned)),
        "processes replaced": len(replaced),
        "the most that one held": f"{most} MiB",
    }
    shown = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "# A leak under a ceiling of memory\n\n"
        f"Each job leaks {leaked >> 10} KiB under `--max-memory {ceiling}`. SQLite, two processes.\n\n"
        f"| | |\n|---|---:|\n{shown}\n\n"
        f"Written by `make test-long`, Python {platform.python_version()}.\n"
    )


@pytest.mark.parametrize("url", ["memory", "sqlite", *(["redis", "postgres"] if LONG else [])], indirect=True)
def test_a_worker_does_not_grow_by_running_jobs(url: str, report: Report) -> None:
    jobs = 1_000_000 if LONG else 10_000
    command = [sys.executable, "-m", "tests.e2e.growth", str(jobs)]
    environment = {**os.environ, "TASKQ_URL": url, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *later = json.loads(done.stdout)
    backend = url.partition(":")[0]
    report(f"growth-{backend}", growth_report(backend, jobs, [first, *later]))
    assert max(abs(size - first) for size in later) <= (0.05 if LONG else 0.15) * first


def growth_report(backend: str, jobs: int, sizes: Sequence[int]) -> str:
    """What the run has shown, as a page."""
    rows = [f"| {jobs // 10 * (tenths + 1):,} | {size / 2**20:.2f} MiB |" for tenths, size in enumerate(sizes)]
    return (
        f"# Memory of a worker on {backend}\n\n"
        "One process defers jobs that do nothing, a thousand at a time, and runs them.\n\n"
        "| jobs so far | resident |\n|---:|---:|\n"
        + "\n".join(rows)
        + f"\n\nWritten by `make test-long`, Python {platform.python_version()}.\n"
    )
