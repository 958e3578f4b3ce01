"""What tests of programs that use taskq stand on.

Tests of a backend have modules of their own, imported by name because they need pytest:
``taskq.testing.broker_contract``, ``taskq.testing.store_contract`` and ``taskq.testing.mutants``.
"""

from taskq.testing.clock import VirtualClock
from taskq.testing.idempotence import Finding, NotIdempotent, check_idempotent
from taskq.testing.observers import Files, Observer, Requests, Rows
from taskq.testing.run import Deferred, Worked, assert_deferred, deferred, on_memory, run_until_idle
from taskq.testing.upcoming import upcoming

__all__ = [
    "Deferred",
    "Files",
    "Finding",
    "NotIdempotent",
    "Observer",
    "Requests",
    "Rows",
    "VirtualClock",
    "Worked",
    "assert_deferred",
    "check_idempotent",
    "deferred",
    "on_memory",
    "run_until_idle",
    "upcoming",
]
