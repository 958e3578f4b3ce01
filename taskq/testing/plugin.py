"""Fixtures for pytest, there as soon as taskq is installed: ``taskq_app`` and ``taskq_clock``.

pytest imports this in every project that has taskq installed, so nothing is imported or opened before a test asks.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest

from taskq.app import App
from taskq.testing.clock import VirtualClock
from taskq.testing.run import on_memory

# A contract's asserts say what they saw, in the projects of backends, too.
pytest.register_assert_rewrite(
    *(
        f"taskq.testing.{module}"
        for module in (
            "broker_contract",
            "capability_clauses",
            "connection_clauses",
            "deployment",
            "enqueue_clauses",
            "fetch_clauses",
            "group_clauses",
            "order_clauses",
            "settle_clauses",
            "store_contract",
            "tenant_clauses",
            "leaving_clauses",
            "transaction_clauses",
        )
    )
)


@pytest.fixture
def taskq_clock() -> Generator[VirtualClock]:
    """A virtual clock: ``taskq_clock.run(main())``, and inside ``await taskq_clock.advance(days=3)``.

    For anyio's pytest plugin: ``("asyncio", {"loop_factory": taskq_clock.make_loop})`` as ``anyio_backend``.
    """
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def taskq_app() -> Generator[Callable[[App], App]]:
    """``app = taskq_app(my_project.app)``: the same app, on ``memory://`` for as long as the test."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(on_memory(app))
