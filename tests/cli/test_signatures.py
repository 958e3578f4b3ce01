"""``taskq signatures``: a deploy that would strand jobs is noticed before it happens."""

import pytest

from tests.cli.shell import Shell, job

MAIL = """
from taskq import App
from dataclasses import dataclass

app = App()

@dataclass
class Address:
    street: str
    number: int

@app.task(name="mail")
async def mail(to: str, address: Address, copies: int = 1) -> None: ...
"""


@pytest.fixture
def deployed(shell: Shell) -> Shell:
    """A directory whose signatures were recorded."""
    (shell.directory / "post.py").write_text(MAIL)
    assert "1 tasks recorded" in shell.run("signatures", "record", "post").out
    return shell


def change(shell: Shell, old: str, new: str) -> None:
    assert old in MAIL
    (shell.directory / "post.py").write_text(MAIL.replace(old, new))


def test_code_that_did_not_change_its_signatures_passes(deployed: Shell) -> None:
    assert deployed.run("signatures", "check", "post").out == "1 tasks, 0 errors, 0 warnings\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("copies: int = 1", "copies: int = 1, subject: str = ''", "0 errors, 0 warnings"),
        ('name="mail"', 'name="mail", version=2', "0 errors, 0 warnings"),
        (", copies: int = 1", "", "warning: mail: arguments copies are ignored from now on"),
        ('name="mail"', 'name="post"', "warning: mail: the task is gone"),
    ],
)
def test_what_jobs_that_wait_survive_passes(deployed: Shell, old: str, new: str, words: str) -> None:
    change(deployed, old, new)
    assert words in deployed.run("signatures", "check", "post").out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("copies: int = 1", "subject: str", "argument 'subject' is new, and jobs that wait lack it"),
        ("copies: int = 1", "copies: int", "argument 'copies' lost its default"),
        ("to: str", "to: int", "argument 'to' has another type"),
        ("number: int", "number: str", "argument 'address' has another type"),
    ],
)
def test_what_would_strand_jobs_that_wait_fails(deployed: Shell, old: str, new: str, words: str) -> None:
    change(deployed, old, new)
    assert words in deployed.run("signatures", "check", "post", code=1).out


def test_versions_only_rise(deployed: Shell) -> None:
    change(deployed, 'name="mail"', 'name="mail", version=2')
    deployed.run("signatures", "record", "post")
    change(deployed, 'name="mail"', 'name="mail", version=1')
    assert "version 1 is older than 2" in deployed.run("signatures", "check", "post", code=1).out


def test_jobs_that_wait_are_compared_too(deployed: Shell) -> None:
    fit = b'{"args":{"to":"ada","address":{"street":"Main","number":1}}}'
    deployed.enqueue(job("1", task="mail", body=fit))
    assert deployed.json("signatures", "check", "post", "--queued") == []
    deployed.enqueue(
        *(job(f"bad {n}", task="mail", body=b'{"args":{"to":"ada"}}') for n in range(3)),
        job("strange", "other", task="who.knows"),
        job("newer", "other", task="mail", body=fit, headers={"taskq-version": "2"}),
    )
    found = deployed.json("signatures", "check", "post", "--queued", code=1)
    assert sorted((one["level"], one["message"].partition(" (job")[0]) for one in found) == [
        ("error", "jobs would be set aside: Object missing required field `address` - at `$.args`"),
        ("error", "this code does not know it, and jobs wait"),
        ("warning", "jobs of version 2 are left to newer code"),
    ]


def test_a_check_without_a_record_says_how_to_make_one(shell: Shell) -> None:
    assert "taskq signatures record" in shell.run("signatures", "check", "shop", code=2).err
    (shell.directory / "taskq-signatures.json").write_text("[]")
    assert "is not what taskq signatures record writes" in shell.run("signatures", "check", "shop", code=2).err
