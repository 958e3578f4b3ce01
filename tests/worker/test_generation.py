"""The processes of one state of the code: whoever is asked to end does, even one that is being born."""

import signal
import sys

import anyio
import pytest
from msgspec.structs import replace

from taskq.worker.child import MAKE_WAY, Child
from taskq.worker.generation import Generation, Plan, pause_after
from tests.worker.moves import SOON, wait_until

pytestmark = pytest.mark.anyio

IMMORTAL = Plan(command=[sys.executable, "-c", "import time; time.sleep(3600)"], processes=2)
"""Processes that nothing ends but a signal."""


def test_a_place_whose_processes_keep_dying_is_filled_at_growing_pauses_of_half_a_minute_at_most() -> None:
    assert [pause_after(deaths) for deaths in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_after(1_000) == 30.0


async def test_a_process_that_does_not_begin_in_its_time_is_killed_and_tried_again() -> None:
    generation, first = Generation(1, replace(IMMORTAL, processes=1, boot=0.1), "", changed=lambda: None), 0
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(generation.run)
            await wait_until(lambda: generation.children)
            (first,) = generation.children
            await wait_until(lambda: generation.children and first not in generation.children)
            generation.stop(signal.SIGTERM)
    assert generation.failure == f"worker {first} died of SIGKILL"
    assert generation.refused is None


async def test_an_app_that_is_not_imported_in_its_time_is_killed_and_tried_again() -> None:
    plan = replace(IMMORTAL, preload=True, boot=0.1)
    generation = Generation(1, plan, "", changed=lambda: None)
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(generation.run)
            await wait_until(lambda: generation.failure)
            assert generation.serving
            generation.stop(signal.SIGTERM)
    assert generation.failure is not None
    assert generation.failure.endswith("died of SIGKILL")


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, MAKE_WAY])
@pytest.mark.parametrize("turns", range(8))
async def test_a_process_that_is_being_born_when_all_are_asked_to_end_is_asked_too(
    number: signal.Signals, turns: int, preload: bool
) -> None:
    generation = Generation(1, replace(IMMORTAL, preload=preload), "", changed=lambda: None)
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(generation.run)
            # From before the first one is begun until all are known.
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            generation.stop(number)
    assert not generation.children


async def test_a_signal_that_is_not_to_end_it_waits_until_a_process_can_hear_it() -> None:
    generation = Generation(1, IMMORTAL, "", changed=lambda: None)
    children: list[Child] = []
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(generation.run)
            await wait_until(lambda: len(generation.children) == IMMORTAL.processes)
            children.extend(generation.children.values())
            # Their answer to these would be to die.
            generation.send(signal.SIGHUP)
            generation.send(signal.SIGUSR1)
            generation.stop(MAKE_WAY)
    assert [child.code for child in children] == [-MAKE_WAY] * IMMORTAL.processes
