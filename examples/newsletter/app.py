"""The tasks: a schedule publishes, an import makes a batch of mails, each mail is a job, and the last one closes."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from examples.newsletter import db, mail
from taskq import App, current

RECIPIENTS = Path(__file__).with_name("recipients.csv")

# A dead worker's jobs wait for the end of its lease. The default is 30 s; the show cannot wait that long.
app = App(f"sqlite:///{db.FILE}", slots=16, lease=2.0)


@app.schedule("0 9 1 * *", tz="Europe/Berlin")
@app.task(queue="import", idempotent=True)
async def publish_monthly() -> None:
    """On the first of each month at nine, the button "Send" without anybody to press it."""
    if tick := current().tick:
        await publish(f"{tick:%Y-%m}", f"News of {tick:%B}")


async def publish(newsletter: str, subject: str) -> bool:
    """False when this newsletter is being imported already, as when somebody clicks twice."""
    return (await import_recipients.options(id=f"import-{newsletter}").defer(newsletter, subject)).added


@app.task(queue="import", unique=("newsletter",), idempotent=True)
async def import_recipients(newsletter: str, subject: str) -> None:
    """A batch with one mail for each recipient. Killed in the middle it goes on at the page where it was.

    Run again, also after its end, it adds nothing: a batch knows its members.
    """
    async with app.batch(newsletter, then=note_sent.call(newsletter)) as batch:
        async for number, page in current().iterate(enumerate(pages()), every=1):
            await batch.add((send_mail.call(newsletter, subject, *who) for who in page), key=f"page-{number}")


@app.task(queue="mail", idempotent="guarded")
def send_mail(newsletter: str, subject: str, recipient: str, name: str) -> None:
    """Send one mail. Not a coroutine, because smtplib blocks: it runs in one of the worker's threads.

    A worker may die after the mail went out and before that was settled. Then it goes out again under the same key,
    which names the effect, and the provider knows it has it.
    """
    mail.send(mail.Letter(recipient, name, subject), key=f"{newsletter}:{recipient}")


@app.task(queue="import", idempotent=True)
async def note_sent(newsletter: str) -> None:
    """All mails are out. Nobody ever writes "sending", so nobody can forget to take it back."""
    db.note_sent(newsletter)


def pages(size: int = 100) -> Iterator[Sequence[tuple[str, str]]]:
    """Address and name of each recipient, so many at a time."""
    with RECIPIENTS.open(encoding="utf-8", newline="") as lines:
        people = ((row["email"], row["name"]) for row in csv.DictReader(lines))
        while page := list(islice(people, size)):
            yield page
