"""Callers who ask about one key share a round trip: what gathered while the last one was under way goes with the next.

Nothing runs in the background: whoever comes first asks for all who came meanwhile.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Q = TypeVar("Q")
A = TypeVar("A")


class _Asked(Generic[Q, A]):
    __slots__ = ("answers", "error", "question")

    def __init__(self, question: Q) -> None:
        self.question = question
        self.answers: list[A] = []
        self.error: Exception | None = None

    @property
    def open(self) -> bool:
        return not self.answers and self.error is None


class _Line(Generic[Q, A]):
    """Those who ask about one key."""

    __slots__ = ("present", "turn", "waiting")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting: list[_Asked[Q, A]] = []
        self.present = 0


class Sharing(Generic[K, Q, A]):
    """``ask(key, question)``: one call of ``answer`` for each key at a time, with all questions that wait for it."""

    def __init__(self, answer: Callable[[K, Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._answer = answer
        self._lines: dict[K, _Line[Q, A]] = {}

    async def ask(self, key: K, question: Q) -> A:
        """The answer to this one question; raises what its call raised. Who is cancelled cancels nobody else."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        asked: _Asked[Q, A] = _Asked(question)
        line.waiting.append(asked)
        line.present += 1
        try:
            async with line.turn:
                if asked.open:
                    await self._ask_all(key, line, asked)
        finally:
            if asked in line.waiting:
                line.waiting.remove(asked)
            line.present -= 1
            if not line.present:
                del self._lines[key]
        if asked.error is not None:
            raise asked.error
        return asked.answers[0]

    async def _ask_all(self, key: K, line: _Line[Q, A], own: _Asked[Q, A]) -> None:
        batch, line.waiting = line.waiting, []
        try:
            answers = await self._answer(key, [asked.question for asked in batch])
        except Exception as error:  # noqa: BLE001 - it is everybody's
            for asked in batch:
                # A shared one would gather every caller's traceback.
                asked.error = copy.copy(error)
                asked.error.__cause__ = error.__cause__
        except BaseException:
            line.waiting[:0] = [asked for asked in batch if asked is not own]
            raise
        else:
            for asked, answer in zip(batch, answers, strict=True):
                asked.answers.append(answer)
