"""What can be said of a task before it runs; what a broker lacks is shown in tests/bad_input."""

from dataclasses import dataclass
from typing import Any, get_args

import pytest
from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel

from taskq import App, memory
from taskq.broker import Durability, Traits
from taskq.checks import check_task, copies, durable
from taskq.codec import Codec
from taskq.signature import Signature
from taskq.task import Task
from taskq.tasks import make_task
from tests.bad_input.weaker import Weaker


async def handler() -> None: ...


def task(**options: Any) -> Task[..., Any]:
    return make_task(handler, {"name": "mail.send", **options})


def found(strict: bool = False, **options: Any) -> list[tuple[str, str]]:
    checked = task(**options)
    findings = check_task(checked.definition, checked.defaults, None, strict=strict)
    assert {finding.subject for finding in findings} <= {"mail.send"}
    return [(finding.level, finding.message) for finding in findings]


def test_a_task_that_says_nothing_of_idempotence_is_warned_of_with_the_ways_out() -> None:
    ((level, message),) = found()

    assert level == "warning"
    assert "may run more than once after a crash, and does not say whether it is idempotent" in message
    for way_out in ("idempotent=True", 'idempotent="guarded"', 'delivery="at_most_once"'):
        assert way_out in message


def test_a_task_that_says_it_is_not_idempotent_is_refused_unless_it_never_runs_twice() -> None:
    ((level, message),) = found(idempotent=False)

    assert level == "error"
    assert "says idempotent=False" in message
    assert found(idempotent=False, delivery="at_most_once") == []


@pytest.mark.anyio
@pytest.mark.parametrize(("idempotent", "level"), [(False, "error"), (None, "warning"), (True, None)])
async def test_a_broker_that_may_deliver_twice_at_once_refuses_what_says_it_cannot_stand_it(
    idempotent: bool | None, level: str | None
) -> None:
    checked = task(**({} if idempotent is None else {"idempotent": idempotent}))
    async with memory.connect("memory://") as backend:
        shared = replace(backend, broker=Weaker(backend.broker, replace(backend.broker.traits, exclusive=False)))
        findings = check_task(checked.definition, checked.defaults, shared, strict=False)
    assert [finding.level for finding in findings] == ([] if level is None else [level])
    assert all("at any time, and twice at once" in finding.message for finding in findings)


def test_strict_makes_an_error_of_it() -> None:
    assert [level for level, _ in found(strict=True)] == ["error"]
    assert [level for level, _ in found(strict=True, idempotent=False)] == ["error"]


@pytest.mark.parametrize(
    "options",
    [{"idempotent": True}, {"idempotent": "guarded"}, {"delivery": "at_most_once"}, {"transaction": True}],
)
def test_a_task_whose_repetition_does_no_harm_is_let_pass(options: dict[str, Any]) -> None:
    assert found(strict=True, **options) == []


@dataclass
class Invoice:
    id: int


@dataclass(frozen=True)
class Paid:
    id: int


@dataclass
class Money:
    cents: int


class Customer(Struct):
    pk: int


class Reader(BaseModel):
    id: int


class Opened(BaseModel, frozen=True):
    id: int


def test_a_call_that_carries_what_may_change_meanwhile_is_warned_of_with_the_ways_out() -> None:
    async def handle(
        one: Invoice,
        paid: Paid,
        many: list[Customer],
        by: dict[str, Reader] | None,
        opened: Opened,
        sum: Money,
        to: int,
    ) -> None: ...

    signature = Signature(handle, Codec())

    said = copies("mail.send", signature, strict=False)

    assert [finding.message.split(", which")[0] for finding in said] == [
        "its argument 'one' carries a Invoice",
        "its argument 'many' carries a Customer",
        "its argument 'by' carries a Reader",
    ]
    assert {finding.level for finding in said} == {"warning"}
    assert {finding.level for finding in copies("mail.send", signature, strict=True)} == {"error"}
    assert all("pass the id" in finding.remedy and "make the class frozen" in finding.remedy for finding in said)


def test_what_an_app_finds_of_its_tasks_has_their_arguments_in_it() -> None:
    app = App("memory://")
    app.task(idempotent=True)(bill)

    (finding,) = app.check()

    assert (finding.level, finding.subject) == ("warning", f"{__name__}.bill")


async def bill(invoice: Invoice) -> None: ...


@pytest.mark.parametrize("durability", get_args(Durability))
def test_every_durability_is_a_sentence(durability: Durability) -> None:
    traits = Traits(
        durability=durability,
        idempotent=True,
        unique=True,
        ordered=True,
        groups=True,
        exclusive=True,
        fenced=True,
        exact_attempts=True,
        max_size=1,
        max_batch=1,
    )

    assert len(durable(traits).split()) > 5


@pytest.mark.anyio
async def test_a_tenant_on_a_broker_that_lets_none_take_turns_is_warned_of() -> None:
    checked = task(tenant="acme", idempotent=True)
    async with memory.connect("memory://") as backend:
        assert check_task(checked.definition, checked.defaults, backend, strict=False) == []
        unfair = replace(backend, broker=Weaker(backend.broker, replace(backend.broker.traits, fair=False)))
        (finding,) = check_task(checked.definition, checked.defaults, unfair, strict=False)
        assert finding.level == "warning"
        assert "Weaker lets no tenants take turns: give each a queue, or cap them" in finding.message
