"""Making queues, and what the doctor says of them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from taskq.broker import Finding
from taskq.cli import main
from taskq.testing.faults import sqs_front
from tests.backends.sqs.deployment import Tenant, ask
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


@pytest.fixture
def tenant(sqs: Process) -> Tenant:
    return Tenant(sqs, create=0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """The exit code and output of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, "".join(capsys.readouterr())


def url_of(tenant: Tenant, queue: str) -> str:
    found: str = ask(tenant.server, "GetQueueUrl", QueueName=f"{tenant.prefix}-{queue}")["QueueUrl"]
    return found


def set_to(tenant: Tenant, queue: str, **attributes: Any) -> None:
    ask(tenant.server, "SetQueueAttributes", QueueUrl=url_of(tenant, queue), Attributes=attributes)


async def examined(tenant: Tenant) -> list[Finding]:
    async with tenant.open() as backend:
        assert backend.doctor is not None
        return [finding for finding in await backend.doctor() if finding.level != "ok"]


def test_apply_makes_what_plan_shows_once(tenant: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ("sqs", "plan", "mail", "news", "--url", tenant.url)
    code, planned = run(capsys, *plan)
    assert (code, planned.count("would create")) == (1, 4)
    assert planned.index(f"{tenant.prefix}-mail--dead:") < planned.index(f"{tenant.prefix}-mail:")
    code, applied = run(capsys, "sqs", "apply", "mail", "news", "--url", tenant.url)
    assert (code, applied.count("create")) == (0, 4)
    assert run(capsys, *plan) == (0, "All queues are as declared.\n")


def test_apply_sets_what_differs_and_leaves_the_rest(tenant: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "sqs", "apply", "mail", "--url", tenant.url)
    set_to(tenant, "mail", MessageRetentionPeriod="60", VisibilityTimeout="77")
    assert run(capsys, "sqs", "plan", "mail", "--url", tenant.url) == (
        1,
        f"would change {tenant.prefix}-mail: MessageRetentionPeriod=1209600\n",
    )
    run(capsys, "sqs", "apply", "mail", "--url", tenant.url)
    attributes = ask(tenant.server, "GetQueueAttributes", QueueUrl=url_of(tenant, "mail"), AttributeNames=["All"])
    assert attributes["Attributes"]["MessageRetentionPeriod"] == "1209600"
    assert attributes["Attributes"]["VisibilityTimeout"] == "77"


def test_bands_and_fifo_queues_are_made_as_such(sqs: Process, capsys: pytest.CaptureFixture[str]) -> None:
    banded, fifo = Tenant(sqs, bands="10,0"), Tenant(sqs, fifo=1)
    for tenant in (banded, fifo):
        assert run(capsys, "sqs", "apply", "mail", "--url", tenant.url)[0] == 0
    assert [url.rpartition("-mail")[2] for url in sorted(banded.queues())] == ["", "--dead", "--p10"]
    assert [url.rpartition("-mail")[2] for url in sorted(fifo.queues())] == ["--dead.fifo", ".fifo"]


def test_a_backend_without_queues_to_make_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "sqs", "plan", "--url", "memory://")
    assert code == 2
    assert "`taskq sqs` is for sqs:// URLs" in said


async def test_the_doctor_has_nothing_against_what_apply_made(tenant: Tenant) -> None:
    assert [finding.subject for finding in await examined(tenant)] == ["queues"]
    async with tenant.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    assert await examined(tenant) == []


OFFENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("mail", {"MessageRetentionPeriod": "345599"}, "warning", "what waits here for 4.0 days is lost"),
    ("mail--dead", {"MessageRetentionPeriod": "3600"}, "error", "what waits here for 0.0 days is lost"),
    ("mail", {"DelaySeconds": "5"}, "warning", "holds every job back for 5 seconds"),
    ("mail", {"RedrivePolicy": ""}, "warning", "no redrive policy"),
]


@pytest.mark.parametrize(("queue", "attributes", "level", "said"), OFFENCES)
async def test_the_doctor_notices(
    tenant: Tenant, queue: str, attributes: dict[str, Any], level: str, said: str
) -> None:
    async with tenant.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    set_to(tenant, queue, **attributes)
    (finding,) = await examined(tenant)
    assert (finding.subject, finding.level) == (f"{tenant.prefix}-{queue}", level)
    assert said in finding.message
    assert finding.remedy


async def test_the_doctor_notices_a_redrive_that_is_hasty_or_goes_elsewhere(tenant: Tenant) -> None:
    async with tenant.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    attributes = ask(tenant.server, "GetQueueAttributes", QueueUrl=url_of(tenant, "mail"), AttributeNames=["All"])
    policy = json.loads(attributes["Attributes"]["RedrivePolicy"])
    elsewhere = f"else-{tenant.prefix}"
    ask(tenant.server, "CreateQueue", QueueName=elsewhere)
    arn = policy["deadLetterTargetArn"].rpartition(":")[0] + f":{elsewhere}"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"maxReceiveCount": 3}, "after 3 receives"),
        ({"deadLetterTargetArn": arn}, f"goes to {arn}"),
    ]
    for changed, said in changes:
        set_to(tenant, "mail", RedrivePolicy=json.dumps({**policy, **changed}))
        (finding,) = await examined(tenant)
        assert said in finding.message


async def test_the_doctor_notices_queues_of_the_other_kind_and_slow_fifo_ones(sqs: Process) -> None:
    standard, fifo = Tenant(sqs), Tenant(sqs, fifo=1)
    async with standard.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    fifo.url = standard.url + "&fifo=1"
    assert [finding.message for finding in await examined(fifo)] == [
        f"no FIFO queue has the prefix {standard.prefix!r}"
    ]
    async with fifo.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    set_to(standard, "mail.fifo", FifoThroughputLimit="perQueue")
    (finding,) = await examined(fifo)
    assert "all message groups together may make 300 calls a second" in finding.message


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("ListQueues", "sqs:ListQueues"),
        ("GetQueueAttributes", "sqs:GetQueueAttributes"),
        ("DeleteMessageBatch", "sqs:DeleteMessage"),
        ("ChangeMessageVisibilityBatch", "sqs:ChangeMessageVisibility"),
    ],
)
async def test_the_doctor_notices_what_the_credentials_may_not_do(sqs: Process, action: str, permission: str) -> None:
    async with sqs_front(sqs.url) as front:
        tenant = Tenant(sqs, front.url)
        async with tenant.open() as backend:
            assert backend.setup is not None
            await backend.setup.apply(["mail"])
        front.refusing = {action: "AccessDenied"}
        for finding in (found := await examined(tenant)):
            assert (finding.level, "may not do this" in finding.message) == ("error", True)
            assert permission in (finding.remedy or "")
        assert found


async def test_the_doctor_tells_what_calls_cost(tenant: Tenant) -> None:
    async with tenant.open(poll=20) as backend:
        assert backend.setup is not None
        assert backend.doctor is not None
        await backend.setup.apply(["mail", "news"])
        (cost,) = [finding.message for finding in await backend.doctor() if finding.subject == "cost"]
    assert cost == (
        "about 0.3 requests a job in full batches and 3 for one alone; an idle worker of all 2 queues makes 360 an hour"
    )


async def test_the_doctor_notices_dead_letters_that_have_nowhere_to_go(tenant: Tenant) -> None:
    async with tenant.open() as backend:
        assert backend.setup is not None
        await backend.setup.apply(["mail"])
    ask(tenant.server, "DeleteQueue", QueueUrl=url_of(tenant, "mail--dead"))
    findings = {finding.subject: finding.level for finding in await examined(tenant)}
    assert findings[f"{tenant.prefix}-mail--dead"] == "error"


LASTING = """
from taskq import App

app = App("{url}", companion={companion!r}, grace=0.5)

@app.task(idempotent=True, timeout=50_000)
async def train() -> None: ...
"""


@pytest.mark.parametrize("companion", [None, "sqlite:///companion.db"])
@pytest.mark.parametrize("command", [("doctor", "--app"), ("check",)], ids=["doctor", "check"])
def test_what_may_take_longer_than_sqs_or_a_stop_allow_is_named(
    tenant: Tenant,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    companion: str | None,
    command: tuple[str, ...],
) -> None:
    run(capsys, "sqs", "apply", "default", "--url", tenant.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lasting.py").write_text(LASTING.format(url=tenant.url, companion=companion))
    code, said = run(capsys, *command, "lasting:app")
    del sys.modules["lasting"]
    assert code == 0
    longer = "timeout=50000 is longer than the 43,200 seconds for which SqsBroker leases a job" in said
    assert longer == (companion is None)
    assert "may take 1 seconds, and grace=0.5 gives a worker less" in said
