"""Sending mail, and a provider that takes it.

``python -m examples.newsletter.mail`` is the provider: a real SMTP server that files what comes in ``mailbox/``.
"""

import asyncio
import os
import smtplib
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from aiosmtpd.smtp import SMTP, Envelope

HOST = "127.0.0.1"
PORT = int(os.environ.get("MAIL_PORT", "2525"))
MAILBOX = Path("mailbox")
DELIVERIES = MAILBOX / "deliveries.log"


class Letter(NamedTuple):
    """What one recipient is to read."""

    recipient: str
    name: str
    subject: str


def send(letter: Letter, *, key: str) -> None:
    """Hand a mail to the provider. Equal keys make equal Message-IDs: the provider keeps one mail of each."""
    message = EmailMessage()
    message["Message-ID"] = f"<{uuid5(NAMESPACE_URL, key)}@newsletter.example.org>"
    message["From"] = "newsletter@example.org"
    message["To"] = letter.recipient
    message["Subject"] = letter.subject
    message.set_content(f"Dear {letter.name},\n\nhere are this month's news.\n")
    with smtplib.SMTP(HOST, PORT, local_hostname="localhost", timeout=10) as smtp:
        smtp.send_message(message)


def received() -> tuple[list[str], int]:
    """The recipients of all mails in the mailbox, and how many deliveries brought them."""
    mails = [message_from_bytes(path.read_bytes()) for path in MAILBOX.glob("*.eml")]
    return [str(mail["To"]) for mail in mails], len(DELIVERIES.read_text(encoding="ascii").splitlines())


class Provider:
    """Files each mail under its Message-ID; one that comes again is noted, and is the mail it has."""

    def __init__(self) -> None:
        MAILBOX.mkdir(exist_ok=True)
        DELIVERIES.touch()

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        content = envelope.original_content or b""
        key = str(message_from_bytes(content)["Message-ID"]).strip("<>").partition("@")[0]
        with DELIVERIES.open("a", encoding="ascii") as log:
            log.write(f"{key}\n")
        mail = MAILBOX / f"{key}.eml"
        if not mail.exists():
            mail.write_bytes(content)
        # The mail is filed and the sender does not know it yet: providers take this long to answer.
        await asyncio.sleep(0.1)
        return "250 OK"


async def serve() -> None:
    """Take mail until killed."""
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(provider, hostname="localhost"), HOST, PORT)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
