"""What does a process cost before its first job? Import time, memory of the import, memory of an idle worker."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Comparison, compare

RSS = "int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20"

IMPORT_TIME = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1e3)"
IMPORT_MEMORY = f"a = {RSS}; {{}}; print({RSS} - a)"


def printed(program: str) -> float:
    """The number a new interpreter prints, its modules compiled before, as an installation compiles them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    _compiled, measured = (
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment) for _ in range(2)
    )
    return float(measured.stdout)


def idle_worker() -> float:
    """MiB of ``taskq worker`` on SQLite, one task registered, nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "jobs.py").write_text(
            "from taskq import App\napp = App()\n\n@app.task\nasync def noop() -> None: ...\n", encoding="utf-8"
        )
        command = [str(Path(sys.executable).with_name("taskq")), "worker", "jobs:app"]
        worker = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        try:
            assert worker.stderr is not None
            for line in worker.stderr:
                if "started" in line:
                    break
            statm = Path(f"/proc/{worker.pid}/statm").read_text(encoding="ascii")
            return int(statm.split()[1]) * 4096 / 2**20
        finally:
            worker.terminate()
            worker.wait()


def run(rounds: int) -> list[Comparison]:
    """100 ms and 25 MiB for the import, 45 MiB for an idle worker."""
    return [
        compare(
            "import taskq",
            "ms",
            {
                "taskq": lambda: printed(IMPORT_TIME.format("import taskq")),
                "asyncio alone": lambda: printed(IMPORT_TIME.format("import asyncio")),
            },
            rounds=rounds,
            bar="at most 100 ms",
            first=lambda milliseconds: milliseconds <= 100.0,
        ),
        compare(
            "memory of import taskq",
            "MiB",
            {
                "taskq": lambda: printed(IMPORT_MEMORY.format("import taskq")),
                "asyncio alone": lambda: printed(IMPORT_MEMORY.format("import asyncio")),
            },
            rounds=rounds,
            bar="at most 25 MiB",
            first=lambda mebibytes: mebibytes <= 25.0,
        ),
        compare(
            "memory of an idle worker",
            "MiB",
            {"taskq worker": idle_worker, "bare Python": lambda: printed(f"print({RSS})")},
            rounds=rounds,
            bar="at most 45 MiB",
            first=lambda mebibytes: mebibytes <= 45.0,
        ),
    ]
