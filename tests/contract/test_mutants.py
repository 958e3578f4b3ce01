"""The suite itself is tested: every broken backend fails its clause, and every clause has a backend that fails it."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.mutant import Mutant, clause_of, mutate, verdict
from taskq.testing.mutants import broker_mutants
from taskq.testing.part_mutants import capability_mutants, store_mutants
from taskq.testing.state_machine import SEEDS, StateMachine
from taskq.testing.store_contract import StoreContract

FULL = "TASKQ_TEST_LONG" in os.environ
BACKENDS = {"memory": 1, "sqlite": 1 if FULL else 3, "redis": 1 if FULL else 12, "postgres": 1 if FULL else 12}
"""One line a backend: its deployment is the fixture ``<name>_deployment``, and every how many-th mutant meets it."""

MUTANTS = [
    *((BrokerContract, mutant) for mutant in [*broker_mutants(), *capability_mutants()]),
    *((StoreContract, mutant) for mutant in store_mutants()),
]

NOTICED_BY_HISTORIES = [
    "a live id is added again",
    "keys are ignored",
    "end is taken for success",
    "replace is taken for return",
    "priority is ignored",
    "groups are ignored",
    "one place is no order",
    "losses are not counted",
    "every nack counts",
    "the fence stands still",
    "receipts are used again",
    "a nack's delay is ignored",
    "an ack leaves the job",
    "a dead letter is thrown away",
    "settle answers True for void receipts",
    "extend answers HELD for all",
    "a delivery forgets that it is cancelled",
    "outcomes stay behind",
]


@pytest.fixture
def deployment(name: str, request: pytest.FixtureRequest) -> Deployment:
    deployment: Deployment = request.getfixturevalue(f"{name}_deployment")
    return deployment


@pytest.mark.anyio
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "contract", "mutant"),
    [
        pytest.param(name, contract, mutant, id=f"{name}-{mutant.clause} {mutant.name}")
        for name, each in BACKENDS.items()
        for contract, mutant in MUTANTS[::each]
    ],
)
async def test_a_mutant_fails_its_clause(
    contract: type[Any], mutant: Mutant, deployment: Deployment, record_property: Callable[[str, object], None]
) -> None:
    said = await verdict(contract, mutant, deployment)
    assert said is not None, f"{mutant.test} does not notice that {mutant.name}"
    record_property(mutant.clause, said)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["memory", "sqlite"])
@pytest.mark.parametrize("fault", NOTICED_BY_HISTORIES)
async def test_random_histories_notice_a_mutant(fault: str, deployment: Deployment) -> None:
    (mutant,) = [mutant for mutant in broker_mutants() if mutant.name == fault]
    mutated = mutate(deployment, mutant)
    with pytest.raises(AssertionError):  # noqa: PT012 which seed it is does not matter
        for seed in SEEDS:
            await StateMachine().test_a_random_history_agrees_with_the_model(mutated, seed)


def test_every_clause_has_a_mutant() -> None:
    tests = [name for contract in (BrokerContract, StoreContract) for name in dir(contract) if name.startswith("test_")]
    assert {clause_of(test) for test in tests} == {mutant.clause for _, mutant in MUTANTS}
    assert {mutant.test for _, mutant in MUTANTS} <= set(tests)
