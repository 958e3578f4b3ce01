"""Where messages about tasks go, and how they are signed: pure, as senders and receivers need it.

Webhooks are signed as Standard Webhooks 1.0 says: https://github.com/standard-webhooks/standard-webhooks, in its
``spec/standard-webhooks.md``.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError, NotVerified

Kind = Literal["failed", "dead", "recovered"]
"""Runs failed and will be tried again; jobs were set aside; a task that had been told of succeeds again."""
KINDS: Sequence[Kind] = ("dead", "failed", "recovered")
"""The gravest first."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")

TOLERANCE = 300.0
"""Seconds a message may be old, or ahead, by the receiver's clock: what the specification's own libraries take."""


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a message says of a task: the ``data`` of a webhook."""

    task: str
    failed: int = 0
    """Runs that failed since the last message, and were to be tried again."""
    dead: int = 0
    """Jobs that were set aside since then."""
    job: str = ""
    """The last of these jobs."""
    error: str = ""
    """The last error, its class and its message."""


class Message(Struct, frozen=True):
    """What is told of a task, once in a window."""

    type: str
    """``task.failed``, ``task.dead`` or ``task.recovered``."""
    timestamp: str
    """When it was made, as ISO 8601."""
    data: Told


class Request(Struct, frozen=True):
    """What is posted."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Webhook(Struct, frozen=True, kw_only=True, tag_field="to", tag="webhook"):
    """A URL of yours that is told in JSON, signed. ``"env:NAME"`` reads ``url`` or ``secret`` from the environment.

    Raises ConfigError for a URL or a secret that cannot be one.
    """

    url: str
    secret: str
    """24 to 64 random bytes in base64, behind ``whsec_`` or not; two of them, a space between, while one replaces the
    other."""
    on: tuple[Kind, ...] = ("dead", "recovered")
    name: str = "webhook"
    """Tells it from others."""
    timeout: float = 10.0
    """For the whole of one attempt."""

    def __post_init__(self) -> None:
        _check(self)
        if not _keys(_found(self.secret)):
            raise ConfigError(f"notify {self.name!r}: give a secret: {_HOW}")

    def __repr__(self) -> str:
        return f"<Webhook {self.name}>"

    def request(self, id: str, now: float, message: Message) -> Request:
        """What is posted at this moment; every attempt of a message has its id."""
        body = msgspec.json.encode(message)
        headers = {**sign(_found(self.secret), id, now, body), "content-type": "application/json"}
        return Request(_found(self.url), headers, body)


class Slack(Struct, frozen=True, kw_only=True, tag_field="to", tag="slack"):
    """An incoming webhook of Slack, or of what takes the same. Its URL is a secret: ``"env:NAME"`` reads it from there.

    Raises ConfigError for a URL that cannot be one.
    """

    url: str
    on: tuple[Kind, ...] = ("dead", "recovered")
    name: str = "slack"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        return f"<Slack {self.name}>"

    def request(self, _id: str, _now: float, message: Message) -> Request:
        """What is posted."""
        body = msgspec.json.encode({"text": _in_words(message)})
        return Request(_found(self.url), {"content-type": "application/json"}, body)


Target = Webhook | Slack


def sign(secret: str, id: str, now: float, body: bytes) -> Mapping[str, str]:
    """The headers of a signed webhook, sent now; with two secrets, two signatures."""
    at = str(int(now))
    signed = f"{id}.{at}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in _keys(secret)]
    return {
        "webhook-id": id,
        "webhook-timestamp": at,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = TOLERANCE, now: float | None = None
) -> Any:
    """The content of a webhook's body, once its signature fits and its time is within the tolerance.

    Raises NotVerified. Within the tolerance the same message may come again, as a repeat or a replay: remember
    ``webhook-id`` for as long, or defer a job under it. ``body`` is what came, byte for byte.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message, signatures = given["webhook-id"], given["webhook-signature"].split()
        sent = int(given["webhook-timestamp"])
    except (KeyError, ValueError) as error:
        raise NotVerified("it lacks webhook-id, webhook-timestamp or webhook-signature, or has no time") from error
    keys = _keys(secret)
    if not keys:
        raise ConfigError(f"this is no secret of a webhook: {_HOW}")
    if abs((time.time() if now is None else now) - sent) > tolerance:
        raise NotVerified(f"it is older, or further ahead, than {tolerance:g} s: a replay, or a clock that is wrong")
    signed = sign(secret, message, sent, body)["webhook-signature"].split()
    fits = [hmac.compare_digest(one.encode(), other.encode()) for one in signed for other in signatures]
    if not any(fits):
        raise NotVerified("its signature does not fit")
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotVerified("its body is no JSON") from error


_HOW = (
    '24 to 64 random bytes in base64, as of `python -c "import secrets, base64; '
    'print(base64.b64encode(secrets.token_bytes(32)).decode())"`'
)


def _keys(secret: str) -> Sequence[bytes]:
    """The keys of one secret, or of two with a space between; none when one of them is no secret."""
    try:
        keys = [base64.b64decode(text.removeprefix("whsec_"), validate=True) for text in secret.split()]
    except (binascii.Error, ValueError):
        return []
    return keys if all(24 <= len(key) <= 64 for key in keys) else []


def _check(target: "Target") -> None:
    """Raises ConfigError for what Webhook and Slack have in common; a type alone keeps nobody from writing it."""
    name, on = target.name, set(target.on)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"notify: name={name!r}: use up to 40 letters, digits, '_' and '-'")
    if not on <= set(KINDS):
        raise ConfigError(f"notify {name!r}: on={target.on!r}: choose from {', '.join(KINDS)}")
    if not on & {"dead", "failed"}:
        raise ConfigError(f"notify {name!r}: let on= hold dead or failed: recovered is told of what was told before")
    if not 0 < target.timeout <= 300:
        raise ConfigError(f"notify {name!r}: timeout={target.timeout!r}: give seconds of more than 0, 300 at most")
    try:
        parts = urlsplit(_found(target.url))
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        # Not repeated: it may be a secret.
        raise ConfigError(f"notify {name!r}: give a url that begins with https://, or http://, and has a host")


def _found(value: str) -> str:
    """The value, or what the environment holds in its place."""
    kind, colon, name = value.partition(":")
    if kind != "env" or not colon:
        return value
    if name not in os.environ:
        raise ConfigError(f"notify: the environment has no {name}")
    return os.environ[name]


def _in_words(message: Message) -> str:
    data = message.data
    counts = [(data.dead, "dead"), (data.failed, "failed, to be tried again")]
    said = ", ".join(f"{n:,} {how}" for n, how in counts if n)
    lines = [f"*{data.task}*: {said or 'succeeds again'}", data.error, data.job and f"last job: {data.job}"]
    # Slack's three control characters: https://docs.slack.dev/messaging/formatting-message-text#escaping
    return "\n".join(filter(None, lines)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
