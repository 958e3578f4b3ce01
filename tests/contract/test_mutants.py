"""The suite itself is tested: every broken backend fails its clause, and every clause has a backend that fails it."""

from collections.abc import Callable
from typing import Any

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.mutant import Mutant, clause_of, verdict
from taskq.testing.mutants import broker_mutants
from taskq.testing.part_mutants import capability_mutants, store_mutants
from taskq.testing.store_contract import StoreContract

BACKENDS = ["memory"]
"""One line a backend: its deployment is the fixture ``<name>_deployment``."""

MUTANTS = [
    *((BrokerContract, mutant) for mutant in [*broker_mutants(), *capability_mutants()]),
    *((StoreContract, mutant) for mutant in store_mutants()),
]


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    deployment: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return deployment


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("contract", "mutant"), MUTANTS, ids=[f"{mutant.clause} {mutant.name}" for _, mutant in MUTANTS]
)
async def test_a_mutant_fails_its_clause(
    contract: type[Any], mutant: Mutant, deployment: Deployment, record_property: Callable[[str, object], None]
) -> None:
    said = await verdict(contract, mutant, deployment)
    assert said is not None, f"{mutant.test} does not notice that {mutant.name}"
    record_property(mutant.clause, said)


def test_every_clause_has_a_mutant() -> None:
    tests = [name for contract in (BrokerContract, StoreContract) for name in dir(contract) if name.startswith("test_")]
    assert {clause_of(test) for test in tests} == {mutant.clause for _, mutant in MUTANTS}
    assert {mutant.test for _, mutant in MUTANTS} <= set(tests)
