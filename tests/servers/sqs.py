"""An emulator of SQS and S3, in its own virtual environment (``make setup`` makes it)."""

import os
import urllib.request
from pathlib import Path

from tests.servers.process import Process


def sqs_python() -> Path:
    """The interpreter that has the emulator: TASKQ_TEST_SQS_PYTHON, or that of ``.venv-sqs`` in the checkout."""
    named = os.environ.get("TASKQ_TEST_SQS_PYTHON")
    return Path(named) if named else Path(__file__).parents[2] / ".venv-sqs" / "bin" / "python"


def sqs(directory: Path) -> Process:
    """An emulator without queues and buckets; any credentials do. It forgets everything when it ends."""

    def command(port: int) -> list[str]:
        settings = [f"GATEWAY_PORT={port}", "BIND_HOST=127.0.0.1", "MINISTACK_HOST=127.0.0.1", "SERVICES=sqs,s3"]
        return ["env", *settings, "LOG_LEVEL=WARNING", f"TMPDIR={directory}", str(sqs_python()), "-m", "ministack"]

    def answers(server: Process) -> bool:
        try:
            with urllib.request.urlopen(f"{server.url}/_ministack/ready", timeout=5.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return Process(directory, command, url="http://127.0.0.1:{port}", answers=answers)
