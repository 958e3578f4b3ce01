"""Broken brokers, at least one a clause: each must fail its clause, or the clause proves nothing."""

from taskq.testing.connection_mutants import connection_mutants
from taskq.testing.enqueue_mutants import enqueue_mutants
from taskq.testing.fetch_mutants import fetch_mutants
from taskq.testing.mutant import Mutant
from taskq.testing.settle_mutants import settle_mutants


def broker_mutants() -> list[Mutant]:
    """Wrappers around the four verbs of any backend."""
    return [*enqueue_mutants(), *fetch_mutants(), *settle_mutants(), *connection_mutants()]
