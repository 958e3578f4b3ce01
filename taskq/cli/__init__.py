"""The command ``taskq``, one file a command. Only this package imports click and, to draw tables, rich."""

import re
import sys
from collections.abc import Sequence

import click

from taskq.cli.audit import audit
from taskq.cli.batch import batch
from taskq.cli.bench import bench
from taskq.cli.cancel import cancel
from taskq.cli.check import check
from taskq.cli.complete import complete
from taskq.cli.config import config
from taskq.cli.dead import dead
from taskq.cli.defer import defer
from taskq.cli.demo import demo
from taskq.cli.doctor import doctor
from taskq.cli.exits import EXIT_CODES, code_of
from taskq.cli.explain import explain
from taskq.cli.history import history
from taskq.cli.job import job
from taskq.cli.job_logs import logs_command
from taskq.cli.jobs import jobs
from taskq.cli.mark import mark_command
from taskq.cli.migrate import migrate
from taskq.cli.outbox import outbox
from taskq.cli.pause import pause
from taskq.cli.resume import resume
from taskq.cli.rollout import rollout
from taskq.cli.schedules import schedules
from taskq.cli.signatures import signatures
from taskq.cli.sqs import sqs
from taskq.cli.stats import stats
from taskq.cli.top import top
from taskq.cli.worker import worker
from taskq.cli.workers import workers_group
from taskq.errors import TaskqError


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskq-async", prog_name="taskq", message="%(prog)s %(version)s")
def program() -> None:
    """Async tasks on the queue you already have.

    Settings come from options, TASKQ_… in the environment, taskq.toml, and [tool.taskq] in pyproject.toml.
    """


COMMANDS = (
    worker,
    rollout,
    workers_group,
    top,
    defer,
    sqs,
    stats,
    history,
    mark_command,
    jobs,
    job,
    explain,
    logs_command,
    batch,
    cancel,
    complete,
    dead,
    pause,
    resume,
    schedules,
    audit,
    outbox,
    check,
    signatures,
    doctor,
    migrate,
    config,
    demo,
    bench,
)
for command in COMMANDS:
    program.add_command(command)


ELSEWHERE = {
    **dict.fromkeys(("retry", "requeue", "revive"), "dead revive"),
    **dict.fromkeys(("failed", "failures"), "dead list"),
    "purge": "dead purge",
    **dict.fromkeys(("queues", "status", "info"), "stats"),
    **dict.fromkeys(("enqueue", "send", "push", "call"), "defer"),
    **dict.fromkeys(("run", "start"), "worker"),
    **dict.fromkeys(("delete", "revoke", "abort"), "cancel"),
    **dict.fromkeys(("skip", "resolve", "approve"), "complete"),
    **dict.fromkeys(("beat", "cron", "scheduler"), "schedules"),
    "inspect": "workers",
}
"""What other tools call our commands."""


def _ours(error: click.UsageError) -> str:
    """What a command is called here that was asked for by another tool's word."""
    asked = re.match(r"No such command '(\w+)'", error.message)
    ours = "" if asked is None or error.ctx is None else ELSEWHERE.get(asked[1], "")
    # Below a group the word may mean something else: `schedules delete` is no `cancel`.
    fits = error.ctx is not None and (error.ctx.parent is None or ours.startswith(f"{error.ctx.info_name} "))
    return f" Here it is `taskq {ours}`." if ours and fits else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name, and exit with its code; what went wrong is one line on stderr."""
    try:
        answer: object = program.main(arguments, prog_name="taskq", standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "taskq"
        click.echo(f"{where}: {error.format_message()}{_ours(error)} (see {where} --help)", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"taskq: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except TaskqError as error:
        click.echo(f"taskq: {' '.join(str(error).split())}", err=True)
        sys.exit(code_of(error))
    sys.exit(answer if isinstance(answer, int) else 0)
