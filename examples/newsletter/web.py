"""What stands for the web application: ``python -m examples.newsletter.web may "News of May"`` is the button "Send"."""

import asyncio
import sys
from typing import NamedTuple

from examples.newsletter import db
from examples.newsletter.app import app, import_recipients, publish


class Progress(NamedTuple):
    """How far a newsletter is."""

    status: str
    mails: int = 0
    sent: int = 0


WORDS = {"unknown": "draft", "failed": "failed", "stopped": "stopped"}
"""How the import stands; all else is "importing"."""


async def progress(newsletter: str) -> Progress:
    """Follows from the import's job and its batch: nobody writes it down, so nobody forgets to take it back."""
    importing = await import_recipients.handle(f"import-{newsletter}").standing()
    batch = await app.batch(newsletter).status()
    status = WORDS.get(importing.state, "importing")
    if db.is_sent(newsletter):
        status = "sent"
    elif batch is not None and batch.sealed:
        status = "sending" if batch.over is None else "failed" if batch.failed else "sent"
    counts = (0, 0) if batch is None else (batch.total, batch.total - batch.pending - batch.failed)
    return Progress(status, *counts)


async def main(newsletter: str, subject: str) -> None:
    """Publish once, and tell how far it is."""
    async with app:
        print("published" if await publish(newsletter, subject) else "published before")
        print("{}: {} mails, {} sent".format(*await progress(newsletter)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
