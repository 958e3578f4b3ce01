"""Calls of the service: signed JSON over connections that stay open, repeated where that is safe.

aiobotocore's own client spends 1.2 to 1.9 ms of CPU on a call, mostly on validating and parsing by its model; this
takes a fifth of that.
"""

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from taskq.errors import BrokerUnavailable
from taskq_sqs.account import Account, Signer
from taskq_sqs.clock import Clock
from taskq_sqs.faults import DRIVER_ERRORS, SaidError, is_passing, is_throttling, said, translated
from taskq_sqs.settings import Settings

TRIES = 4
_FIRST, _CAP = 0.05, 1.0
"""Seconds between them; a longer outage is the worker's to wait out."""

_ONCE = frozenset({"SendMessageBatch"})
"""Repeated only when the service says that it has done nothing: a second time would be a second message."""

T = TypeVar("T")


class Nothing(Struct):
    """An answer in which nothing matters."""


class _Said(Struct):
    kind: str = msgspec.field(name="__type", default="")
    message: str = ""
    Message: str = ""


class Client:
    """One endpoint, from one event loop."""

    def __init__(self, account: Account, signer: Signer, settings: Settings) -> None:
        self.clock = Clock()
        self.account = account
        self._signer = signer
        self._patience = settings.patience
        most = settings.connections
        self._room: AbstractAsyncContextManager[object] = nullcontext() if most is None else asyncio.Semaphore(most)
        """For all calls but long polls, which would keep the others waiting."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            skip_auto_headers=("User-Agent", "Accept"),
            trust_env=True,
        )
        self._closed = False
        self._dates: dict[str, float] = {}

    async def call(self, action: str, request: Struct, answer: type[T], *, wait: float = 0.0) -> T:
        """What the service answers; ``wait`` is how long it may take its time. Raises BrokerError."""
        body = msgspec.json.encode(request)
        for turn in range(1, TRIES + 1):
            if self._closed:
                raise BrokerUnavailable(f"SQS at {self.account.endpoint}: this backend is closed")
            try:
                return msgspec.json.decode(await self._post(action, body, wait), type=answer)
            except (*DRIVER_ERRORS, msgspec.MsgspecError) as error:
                again = is_throttling(error) or (is_passing(error) and action not in _ONCE)
                if self._closed or turn == TRIES or not again:
                    raise translated(error, f"SQS at {self.account.endpoint}, {action}") from error
            await back_off(turn)
        raise AssertionError("the last try answers or raises")

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        await self._session.close()

    async def _post(self, action: str, body: bytes, wait: float) -> bytes:
        async with nullcontext() if wait else self._room:
            return await self._asked(action, body, wait)

    async def _asked(self, action: str, body: bytes, wait: float) -> bytes:
        headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "application/x-amz-json-1.0"}
        signed = await self._signer.sign(headers, body)
        asked = time.monotonic()
        patience = aiohttp.ClientTimeout(total=wait + self._patience)
        async with self._session.post(self.account.endpoint, data=body, headers=signed, timeout=patience) as answer:
            text = await answer.read()
            self._tell_time(answer.headers.get("Date", ""), asked)
            if answer.status == 200:
                return text
        raise _refusal(action, answer.status, text)

    def _tell_time(self, date: str, asked: float) -> None:
        moment = self._dates.get(date)
        if moment is None:
            try:
                moment = parsedate_to_datetime(date).timestamp()
            except ValueError:
                return
            self._dates = {date: moment}
        self.clock.tell(moment, moment + 1, asked=asked, answered=time.monotonic())


async def back_off(turn: int) -> None:
    """Wait before the next try, longer each time and never as long as others."""
    await asyncio.sleep(random.uniform(0, 1) * min(_CAP, _FIRST * 2**turn))  # noqa: S311


def _refusal(action: str, status: int, text: bytes) -> SaidError:
    try:
        found = msgspec.json.decode(text, type=_Said)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = _Said()
    code = found.kind.rpartition("#")[2].partition(":")[0]
    explained = found.message or found.Message or text[:200].decode(errors="replace")
    return said(action, status, code or str(status), explained)
