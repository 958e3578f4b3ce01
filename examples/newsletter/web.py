"""What stands for the web application: ``python -m examples.newsletter.web may "News of May"`` is the button "Send"."""

import asyncio
import sys
from pathlib import Path

from examples.newsletter import db
from examples.newsletter.app import app, import_recipients

RECIPIENTS = Path(__file__).with_name("recipients.csv")


async def publish(newsletter: str, subject: str) -> bool:
    """Answer the request at once: the newsletter and its import job are there together or not at all.

    False when the newsletter was published before, as when somebody clicks twice.
    """
    with db.transaction() as connection:
        if not db.add_newsletter(connection, newsletter, subject):
            return False
        await import_recipients.options(tx=connection).defer(newsletter, str(RECIPIENTS))
    return True


async def main(newsletter: str, subject: str) -> None:
    """Publish once, and tell how far it is."""
    async with app:
        db.create_tables()
        print("published" if await publish(newsletter, subject) else "published before")
        print("{}: {} mails, {} sent".format(*db.progress(newsletter)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
