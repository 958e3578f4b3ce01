"""Concurrent defers share a round trip: what gathered while the last call was under way goes with the next."""

import asyncio
from typing import TypeVar

from msgspec.structs import replace

from taskq.broker import Broker
from taskq.errors import BrokerUnavailable
from taskq.job import Enqueued, Job


class Batcher:
    """Enqueues jobs one caller at a time or many together, as load has it; nothing waits for a timer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._busy = False
        self._gathered: list[tuple[Job, asyncio.Future[Enqueued]]] = []
        self._wake = asyncio.Event()

    async def enqueue(self, job: Job) -> Enqueued:
        """The broker's answer for this one job. A cancelled caller cancels nobody else."""
        if not self._busy and not self._gathered:
            self._busy = True
            try:
                (answer,) = await self._broker.enqueue([job])
            finally:
                self._busy = False
                if self._gathered:
                    self._wake.set()
            return answer
        future: asyncio.Future[Enqueued] = asyncio.get_running_loop().create_future()
        self._gathered.append((job, future))
        return await future

    async def run(self) -> None:
        """Send what gathers, until cancelled; whoever still waits then learns that it is unknown what became of it."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._busy:
                    continue  # Whoever is under way wakes this again.
                self._busy = True
                try:
                    while self._gathered:
                        await self._flush()
                        # Who was answered may defer again in this very turn, and then shares the next call.
                        await asyncio.sleep(0)
                finally:
                    self._busy = False
        finally:
            _fail(self._gathered, BrokerUnavailable("the app was closed before the broker had answered"))

    async def _flush(self) -> None:
        size = self._broker.traits.max_batch
        batch, self._gathered = self._gathered[:size], self._gathered[size:]
        try:
            answers = await self._broker.enqueue([job for job, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is the callers', and the next ones still want their jobs sent
            _fail(batch, error)
        except BaseException:
            _fail(batch, BrokerUnavailable("the app was closed before the broker had answered"))
            raise
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    refused = answer.error
                    future.set_result(answer if refused is None else replace(answer, error=_own(refused)))


E = TypeVar("E", bound=Exception)


def _own(error: E) -> E:
    """Each caller raises its own copy: a shared one would gather every caller's traceback."""
    # Not by copy.copy, which calls a constructor that may want more than the message.
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    own.__cause__ = error.__cause__
    return own


def _fail(batch: list[tuple[Job, asyncio.Future[Enqueued]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(_own(error))
