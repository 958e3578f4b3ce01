"""The show: publish, send, kill the worker in the middle, start it again, count the mails."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.newsletter import mail
from examples.newsletter.app import app, import_recipients, pages, publish
from examples.newsletter.web import progress
from taskq.broker import QueueStats

NEWSLETTER, SUBJECT = "may", "News of May"
KILL_AT = (150, 450, 750)
"""Mails sent, at which the worker is killed."""
PATIENCE = 90.0
"""Seconds after which the show counts as failed."""
FRAME = 0.05
"""Seconds between two looks at the tables."""

PROVIDER = (sys.executable, "-m", "examples.newsletter.mail")
WORKER = (sys.executable, "-m", "taskq.cli", "worker", "examples.newsletter.app:app")

LOG = Path("children.log")
LIBC = ctypes.CDLL(None)

BY_HAND = """
Play with it by hand, in three terminals:
    python -m examples.newsletter.mail                        # the provider: files mails in mailbox/
    taskq worker examples.newsletter.app:app                  # as many of these as you like; kill them
    python -m examples.newsletter.web may "News of May"       # publish, and again to see how far it is
and look at the queue:
    taskq stats --url sqlite:///newsletter.db
"""


class Show:
    """One run from nothing."""

    def __init__(self, view: Progress) -> None:
        self._view = view
        self._console = view.console
        self._bar = view.add_task("importing", total=None)
        self._until = time.monotonic() + PATIENCE
        self.kills: list[tuple[int, int]] = []
        """Mails sent so far, and jobs in the worker's hands, at each kill."""

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line, soft_wrap=True, highlight=False)

    async def play(self) -> None:
        """From the click on "Send" to an empty queue; raises TimeoutError when that takes too long."""
        await publish(NEWSLETTER, SUBJECT)
        again = await publish(NEWSLETTER, SUBJECT)
        self.say(f"published{'' if again else '; a second click changed nothing'}")
        for sent in KILL_AT:
            with running(WORKER) as worker:
                await self._watch(worker, sent)
                worker.kill()
                worker.wait()
                in_hand = sum(queue.leased for queue in await self._left())
            self.kills.append(((await progress(NEWSLETTER)).sent, in_hand))
            self.say(f"worker killed at {self.kills[-1][0]} mails with {in_hand} jobs in its hands; starting another")
        with running(WORKER) as worker:
            await self._watch(worker, None)
            self.deferred = (await progress(NEWSLETTER)).mails
            self.say("sent; importing the same list again")
            await import_recipients.defer(NEWSLETTER, SUBJECT)
            # What a worker had sent but not settled when it died comes back, and is sent again under the same key.
            while await self._left():
                await self._frame(worker)

    async def _watch(self, worker: "subprocess.Popen[str]", sent: int | None) -> None:
        """Until so many mails are sent, or all."""
        while (now := await progress(NEWSLETTER)).status != "sent" and (sent is None or now.sent < sent):
            self._view.update(self._bar, description=now.status, completed=now.sent, total=now.mails or None)
            await self._frame(worker)
        self._view.update(self._bar, description=now.status, completed=now.sent, total=now.mails)

    async def _frame(self, worker: "subprocess.Popen[str]") -> None:
        if worker.poll() is not None:
            raise ChildProcessError(f"the worker ended by itself with exit code {worker.returncode}")
        if time.monotonic() > self._until:
            raise TimeoutError(f"not done after {PATIENCE:g} s: {await progress(NEWSLETTER)}")
        await asyncio.sleep(FRAME)

    async def _left(self) -> Sequence[QueueStats]:
        return [queue for queue in await app.admin.stats() if queue.later or queue.ready or queue.leased or queue.dead]

    async def figures(self) -> "Figures":
        """What is to be read off the batch and the mailbox."""
        received, deliveries = mail.received()
        now = await progress(NEWSLETTER)
        return Figures(
            invited=[recipient for page in pages() for recipient, _ in page],
            deferred=self.deferred,
            added_again=now.mails - self.deferred,
            kills=len(self.kills),
            rescued=sum(in_hand for _, in_hand in self.kills),
            deliveries=deliveries,
            received=received,
            status=now.status,
        )


class Figures(NamedTuple):
    """What happened, in numbers."""

    invited: Sequence[str]
    deferred: int
    added_again: int
    kills: int
    rescued: int
    deliveries: int
    received: Sequence[str]
    status: str

    @property
    def proven(self) -> bool:
        """Whether each recipient has exactly one mail, the newsletter knows it, and workers did die."""
        return (
            sorted(self.invited) == sorted(self.received)
            and self.deferred == len(self.invited)
            and not self.added_again
            and self.status == "sent"
            and self.kills > 0
        )

    def __str__(self) -> str:
        mails = Counter(self.received)
        figures = {
            "recipients": len(self.invited),
            "mail jobs deferred": self.deferred,
            "added by a second import": self.added_again,
            "workers killed": self.kills,
            "jobs rescued from them": self.rescued,
            "deliveries at the provider": self.deliveries,
            "caught there by their key": self.deliveries - len(self.received),
            "mails": len(self.received),
            "recipients with just one": sum(mails[recipient] == 1 for recipient in self.invited),
            "status": self.status,
        }
        return "\n".join(f"{name:30}{value}" for name, value in figures.items())


@contextmanager
def running(command: Sequence[str]) -> Generator["subprocess.Popen[str]"]:
    """A process for as long as the context, and no longer than this one lives."""
    with (
        LOG.open("a") as log,
        subprocess.Popen(  # noqa: S603 - our own commands
            command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=_end_with_parent
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _end_with_parent() -> None:
    # Between fork and exec of a process with threads nothing may be loaded any more, so LIBC was before.
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


async def main() -> bool:
    """Whether each recipient has exactly one mail."""
    console = Console()
    columns = TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        running(PROVIDER) as provider,
        Progress(*columns, console=console, disable=not console.is_terminal) as view,
    ):
        assert provider.stdout is not None  # noqa: S101 - it is a pipe
        os.environ["MAIL_PORT"] = provider.stdout.readline().strip()
        show = Show(view)
        async with app:
            await show.play()
            figures = await show.figures()
        show.say(f"\n{figures}")
        return figures.proven


if __name__ == "__main__":
    # Children import what this process does, but work in another directory.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ["MAIL_PORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="newsletter-") as directory, chdir(directory):
        try:
            proven = asyncio.run(main())
        except (TimeoutError, ChildProcessError) as error:
            sys.exit(f"failed: {error}\n{LOG.read_text()}")
        except KeyboardInterrupt:
            sys.exit(130)
    if not proven:
        sys.exit("failed: the figures are not what was promised")
    print(f"Each recipient has exactly one mail.\n{BY_HAND}")
