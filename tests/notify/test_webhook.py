"""Signatures, replays, words for Slack, and settings that make no sense."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from taskq.cli.config import config
from taskq.config import load_config
from taskq.errors import ConfigError, NotVerified
from taskq.webhook import Message, Slack, Told, Webhook, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the specification's
OTHER = base64.b64encode(bytes(range(32))).decode()
BODY = b'{"test": 2432232314}'
NOW = 1614265330.0
MESSAGE = Message("task.dead", "2031-05-01T08:00:00+00:00", Told(task="shop.send", dead=3, job="j1", error="E: no"))


def test_a_signature_is_that_of_the_specifications_example() -> None:
    headers = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, BODY)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify(SECRET, headers, BODY, now=NOW) == {"test": 2432232314}


def test_headers_may_come_in_any_case_with_signatures_of_other_kinds_and_secrets() -> None:
    headers = dict(sign(SECRET, "m", NOW, BODY))
    headers["webhook-signature"] = f"v1a,xyz v1,{base64.b64encode(bytes(32)).decode()} {headers['webhook-signature']}"
    assert verify(SECRET, {name.upper(): value for name, value in headers.items()}, BODY, now=NOW + 299)


def test_while_one_secret_replaces_another_both_verify() -> None:
    headers = sign(f"{SECRET} {OTHER}", "m", NOW, BODY)
    for secret in (SECRET, OTHER, f"{OTHER} {SECRET}"):
        assert verify(secret, headers, BODY, now=NOW)


@pytest.mark.parametrize("off", [-301.0, 301.0])
def test_a_replay_and_a_message_from_the_future_are_refused(off: float) -> None:
    headers = sign(SECRET, "m", NOW, BODY)
    with pytest.raises(NotVerified, match="older, or further ahead, than 300 s"):
        verify(SECRET, headers, BODY, now=NOW - off)
    assert verify(SECRET, headers, BODY, now=NOW - off, tolerance=302)


@pytest.mark.parametrize(
    ("secret", "changed", "body"),
    [
        (OTHER, {}, BODY),
        (SECRET, {}, BODY + b" "),
        (SECRET, {"webhook-id": "another"}, BODY),
        (SECRET, {"webhook-timestamp": "1614265331"}, BODY),
        (SECRET, {"webhook-timestamp": "yesterday"}, BODY),
        (SECRET, {"webhook-signature": "v1,"}, BODY),
        (SECRET, {"webhook-signature": "v1,é"}, BODY),
        (SECRET, {"webhook-signature": ""}, BODY),
    ],
)
def test_what_was_not_signed_so_is_refused(secret: str, changed: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotVerified):
        verify(secret, {**sign(SECRET, "m", NOW, BODY), **changed}, body, now=NOW)


def test_what_lacks_a_header_or_is_no_json_is_refused() -> None:
    with pytest.raises(NotVerified, match="lacks"):
        verify(SECRET, {}, BODY)
    with pytest.raises(NotVerified, match="JSON"):
        verify(SECRET, sign(SECRET, "m", NOW, b"{"), b"{", now=NOW)


def test_a_receiver_without_a_secret_is_told_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match=r"secrets\.token_bytes"):
        verify("", sign(SECRET, "m", NOW, BODY), BODY, now=NOW)


def test_slack_is_told_in_words_that_mark_nothing_up() -> None:
    told = Told(task="shop.send", dead=1200, failed=1, job="j1", error="ValueError: <!channel> & more")
    request = Slack(url="https://slack.example/x").request("id", NOW, Message("task.dead", "", told))
    assert msgspec.json.decode(request.body) == {
        "text": "*shop.send*: 1,200 dead, 1 failed, to be tried again\n"
        "ValueError: &lt;!channel&gt; &amp; more\n"
        "last job: j1"
    }
    recovered = Slack(url="https://slack.example/x").request(
        "id", NOW, Message("task.recovered", "", Told(task="shop.send"))
    )
    assert b"*shop.send*: succeeds again" in recovered.body


def test_url_and_secret_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://example.org/hook")
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    request = Webhook(url="env:HOOK", secret="env:HOOK_SECRET").request("m", NOW, MESSAGE)  # noqa: S106
    assert request.url == "https://example.org/hook"
    assert verify(SECRET, request.headers, request.body, now=NOW)["data"] == {
        "task": "shop.send",
        "dead": 3,
        "job": "j1",
        "error": "E: no",
    }


def test_secrets_are_in_no_representation() -> None:
    assert (
        repr((Webhook(url="https://u", secret=SECRET), Slack(url="https://s"))) == "(<Webhook webhook>, <Slack slack>)"
    )


TOML = """
notify_window = 10
[[notify]]
to = "webhook"
url = "https://example.org/hook"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
on = ["dead"]
[[notify]]
to = "slack"
url = "https://hooks.slack.com/services/T0/B0/x"
"""


def test_targets_are_read_from_the_file_as_from_code(tmp_path: Path) -> None:
    (tmp_path / "taskq.toml").write_text(TOML)
    webhook = Webhook(url="https://example.org/hook", secret=SECRET, on=("dead",))
    slack = Slack(url="https://hooks.slack.com/services/T0/B0/x")
    settings = load_config({}, {}, tmp_path).settings
    assert (settings.notify, settings.notify_window) == ((webhook, slack), 10)
    assert load_config({"notify": [slack, webhook]}, {}, tmp_path).settings.notify == (slack, webhook)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"to": "webhook", "url": "https://u"}, "secret"),
        ({"to": "webhook", "url": "https://u", "secret": ""}, "24 to 64 random bytes"),
        ({"to": "webhook", "url": "https://u", "secret": "whsec_c2hvcnQ="}, "24 to 64 random bytes"),
        ({"to": "webhook", "url": "https://u", "secret": "no base64 at all, though it is long enough"}, "base64"),
        ({"to": "webhook", "url": "https://u", "secret": f"{SECRET} short"}, "base64"),
        ({"to": "webhook", "url": "env:NOT_THERE", "secret": SECRET}, "no NOT_THERE"),
        ({"to": "webhook", "url": "ftp://u", "secret": SECRET}, "https://"),
        ({"to": "slack", "url": "hooks.slack.com"}, "https://"),
        ({"to": "slack", "url": "https://"}, "https://"),
        ({"to": "slack", "url": "https://[x"}, "https://"),
        ({"to": "slack", "url": "https://s", "on": []}, "dead or failed"),
        ({"to": "slack", "url": "https://s", "on": ["recovered"]}, "dead or failed"),
        ({"to": "slack", "url": "https://s", "on": ["died"]}, "died"),
        ({"to": "slack", "url": "https://s", "timeout": 0}, "more than 0"),
        ({"to": "slack", "url": "https://s", "name": "a b"}, "40 letters"),
        ({"to": "pager", "url": "https://s"}, "pager"),
        ({"url": "https://s"}, "to"),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config({"notify": [given]}, {}, tmp_path)


@pytest.mark.parametrize("given", [{"name": "a b"}, {"name": ""}, {"on": ("died",)}, {"on": ()}, {"timeout": -1}])
def test_code_that_no_type_checker_saw_is_refused_as_well(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Slack(url="https://s", **given)


def test_the_command_line_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taskq.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(config, ["--json"])
    assert ran.exit_code == 0
    assert '"value":["webhook","slack"]' in ran.output
    assert "whsec_" not in ran.output
    assert "services/T0" not in ran.output
