"""The two tasks: one turns a list of recipients into mail jobs, the other sends one mail."""

import csv
from pathlib import Path

from examples.newsletter import db, mail
from taskq import App, current

# A dead worker's jobs wait for the end of its lease. The default is 30 s; the show cannot wait that long.
app = App(f"sqlite:///{db.FILE}", slots=16, lease=2.0)


@app.task(queue="import", transaction=True)
async def import_recipients(newsletter: str, file: str) -> int:
    """One mail job for each recipient who has none yet. Answers how many there were.

    A transaction of the queue's own database: the rows, the jobs and the end of this job are there together or not at
    all. Killed in the middle it has done nothing; run again it finds nothing to do.
    """
    connection = current().connection
    added = db.add_mails(connection, newsletter, read_recipients(file))
    await app.defer_many(
        # The job's id names the effect: this newsletter to this recipient.
        send_mail.options(id=f"{newsletter}:{recipient}", tx=connection).call(newsletter, recipient)
        for recipient in added
    )
    return len(added)


@app.task(queue="mail", idempotent="guarded")
def send_mail(newsletter: str, recipient: str) -> None:
    """Send one mail. Not a coroutine, because smtplib blocks: it runs in one of the worker's threads.

    A worker may die anywhere in here, and the job then runs again. Before the mail went out that is harmless. After it
    was noted, the first question ends the second run. In between, the mail goes out again under the same key, and the
    provider knows it has it.
    """
    letter = db.unsent_letter(newsletter, recipient)
    if letter is None:
        return
    mail.send(letter, key=current().idempotency_key)
    db.note_sent(newsletter, recipient)


def read_recipients(file: str) -> list[tuple[str, str]]:
    """Address and name of each."""
    with Path(file).open(encoding="utf-8", newline="") as lines:
        return [(row["email"], row["name"]) for row in csv.DictReader(lines)]
