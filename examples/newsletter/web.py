"""What stands for the web application: ``python -m examples.newsletter.web may "News of May"`` is the button "Send"."""

import asyncio
import sys
from typing import NamedTuple

from examples.newsletter import db
from examples.newsletter.app import app, publish


class Progress(NamedTuple):
    """How far a newsletter is."""

    status: str
    mails: int = 0
    sent: int = 0


async def progress(newsletter: str) -> Progress:
    """Follows from the batch, so that it cannot be wrong."""
    batch = await app.batch(newsletter).status()
    if batch is None:
        return Progress("importing")
    status = "sent" if db.is_sent(newsletter) else "sending" if batch.sealed else "importing"
    return Progress(status, batch.total, batch.total - batch.pending - batch.failed)


async def main(newsletter: str, subject: str) -> None:
    """Publish once, and tell how far it is."""
    async with app:
        print("published" if await publish(newsletter, subject) else "published before")
        print("{}: {} mails, {} sent".format(*await progress(newsletter)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
