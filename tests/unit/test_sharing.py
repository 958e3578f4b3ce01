"""Questions about one key share a call; nobody waits for company, and nobody pays for another's end."""

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from taskq.sharing import Sharing

pytestmark = pytest.mark.anyio


class Desk:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.open = anyio.Event()
        self.error: Exception | None = None

    async def answer(self, key: str, questions: Sequence[int]) -> Sequence[int]:
        self.calls.append((key, list(questions)))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return [question * 10 for question in questions]


async def asked(desk: Desk, many: int) -> tuple[Sharing[str, int, int], list[asyncio.Task[int]]]:
    sharing = Sharing(desk.answer)
    tasks = [asyncio.ensure_future(sharing.ask("k", n)) for n in range(many)]
    await anyio.wait_all_tasks_blocked()
    return sharing, tasks


async def test_what_gathered_during_a_call_goes_with_the_next() -> None:
    desk = Desk()
    sharing, tasks = await asked(desk, 5)
    other = asyncio.ensure_future(sharing.ask("other", 9))
    await anyio.wait_all_tasks_blocked()
    assert desk.calls == [("k", [0, 1, 2, 3, 4]), ("other", [9])] or desk.calls == [("k", [0]), ("other", [9])]
    desk.open.set()
    assert await asyncio.gather(*tasks, other) == [0, 10, 20, 30, 40, 90]
    assert len(desk.calls) <= 3


async def test_who_is_cancelled_cancels_nobody_else() -> None:
    desk = Desk()
    _, tasks = await asked(desk, 4)
    tasks[0].cancel()
    tasks[2].cancel()
    await anyio.wait_all_tasks_blocked()
    desk.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[1], answers[3]] == [10, 30]
    assert isinstance(answers[0], asyncio.CancelledError)
    assert isinstance(answers[2], asyncio.CancelledError)


async def test_a_failed_call_fails_for_all_that_shared_it_and_for_nobody_later() -> None:
    desk = Desk()
    desk.error = ConnectionError("gone")
    sharing, tasks = await asked(desk, 3)
    desk.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, ConnectionError) for answer in answers)
    desk.error = None
    assert await sharing.ask("k", 7) == 70
