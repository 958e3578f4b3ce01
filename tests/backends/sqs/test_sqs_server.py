"""What the contract does not ask: names, dead letters, foreign messages, and what calls cost."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import anyio
import pytest
from taskq_sqs import connect
from taskq_sqs.batches import Answer, Batches, Failure, Fields
from taskq_sqs.broker import SqsBroker
from taskq_sqs.client import TRIES
from taskq_sqs.faults import code_of

from taskq import App
from taskq.config import Settings
from taskq.errors import BrokerRejected, ConfigError
from taskq.job import DeadLetter, Delivery, Nack
from taskq.opening import open_backend
from taskq.testing.deployment import LONG, a_job, ack, add, names, nothing, take, take_one
from taskq.testing.faults import Front, Rates, sqs_front
from tests.backends.sqs.deployment import Tenant, ask
from tests.servers.process import Process
from tests.servers.proxy import proxied

pytestmark = pytest.mark.anyio


@pytest.fixture
async def front(sqs: Process) -> AsyncGenerator[Front]:
    async with sqs_front(sqs.url) as front:
        yield front


def messages(tenant: Tenant, queue: str) -> list[Any]:
    """What lies visible in a queue, as JSON."""
    url = ask(tenant.server, "GetQueueUrl", QueueName=f"{tenant.prefix}-{queue}")["QueueUrl"]
    received = ask(tenant.server, "ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]


async def test_a_missing_queue_names_its_remedy(sqs: Process) -> None:
    async with Tenant(sqs, create=0).open() as backend:
        with pytest.raises(
            BrokerRejected, match=r"no SQS queue '.*-mail' in this account and region: run `taskq sqs apply`"
        ):
            await backend.broker.fetch(["mail"], 1, lease=LONG, wait=0)
        (answer,) = await backend.broker.enqueue([a_job("mail")])
        assert "taskq sqs apply" in str(answer.error)


@pytest.mark.parametrize("connections", [2, None])
async def test_calls_share_so_many_connections_and_long_polls_take_none_of_them(
    sqs: Process, connections: int | None
) -> None:
    async with proxied(sqs.port) as (proxy, port):
        tenant = Tenant(sqs, f"http://127.0.0.1:{port}", poll=20)
        async with tenant.open(connections=connections) as backend:
            assert await nothing(backend.broker, "mail")
            before, proxy.latency = proxy.accepted, 0.02
            async with anyio.create_task_group() as group:
                group.start_soon(partial(backend.broker.fetch, ["other"], 1, lease=LONG, wait=LONG))
                await add(backend.broker, *(a_job("mail", str(n)) for n in range(100)))
                opened = proxy.accepted - before
                # The long poll has one of its own; so has the look for its queue, which may have come first.
                assert opened <= connections + 2 if connections else opened > 4
                await add(backend.broker, a_job("other"))


async def test_without_credentials_it_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="no AWS credentials were found"):
        async with connect("sqs+http://127.0.0.1:1/shop"):
            pass


async def test_a_message_of_another_program_is_a_job_and_one_that_is_none_is_set_aside(
    sqs: Process, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = Tenant(sqs)
    async with tenant.open() as backend:
        assert await nothing(backend.broker, "mail")
        url = ask(sqs, "GetQueueUrl", QueueName=f"{tenant.prefix}-mail")["QueueUrl"]
        body = '{"task": "mail.send", "args": {"to": "ada"}}'
        envelope = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:mail", "Message": body})
        for text in (body, envelope, '{"hello": "world"}'):
            ask(sqs, "SendMessage", QueueUrl=url, MessageBody=text)
        for _ in range(2):
            delivery = await take_one(backend.broker, "mail")
            assert (delivery.job.task, delivery.job.body) == ("mail.send", b'{"v":1,"args":{"to": "ada"}}')
            await ack(backend.broker, delivery)
        assert await nothing(backend.broker, "mail")
        assert messages(tenant, "mail--dead") == [{"hello": "world"}]
    assert "is no job, and was set aside" in caplog.text


async def test_a_dead_letter_can_be_read_and_moved_back(sqs: Process) -> None:
    tenant = Tenant(sqs)
    async with tenant.open() as backend:
        await add(backend.broker, a_job("mail", "a", body=b'{"v":1,"args":{"to":"ada"}}'))
        delivery = await take_one(backend.broker, "mail")
        await backend.broker.settle([DeadLetter(delivery.receipt, b'{"end":"failed"}')])
        (dead,) = messages(tenant, "mail--dead")
        assert (dead["args"], dead["outcome"]) == ({"to": "ada"}, {"end": "failed"})
        url = ask(sqs, "GetQueueUrl", QueueName=f"{tenant.prefix}-mail")["QueueUrl"]
        ask(sqs, "SendMessage", QueueUrl=url, MessageBody=json.dumps(dead))
        revived = await take_one(backend.broker, "mail")
        assert (names([revived]), revived.attempt, revived.losses) == (["a"], 1, 0)
        assert revived.fence > delivery.fence


async def test_a_tenant_is_a_message_group(sqs: Process) -> None:
    tenant = Tenant(sqs)
    async with tenant.open() as backend:
        await add(backend.broker, a_job("q", tenant="ada"))
        await backend.broker.settle([Nack((await take_one(backend.broker, "q")).receipt, 0)])
        url = ask(sqs, "GetQueueUrl", QueueName=f"{tenant.prefix}-q")["QueueUrl"]
        (found,) = ask(sqs, "ReceiveMessage", QueueUrl=url, AttributeNames=["MessageGroupId"])["Messages"]
        assert found["Attributes"] == {"MessageGroupId": "ada"}


async def test_bands_are_fetched_the_most_urgent_first(sqs: Process) -> None:
    async with Tenant(sqs, bands="10,0,-10").open() as backend:
        await add(backend.broker, *(a_job("q", str(priority), priority=priority) for priority in (-99, -1, 0, 10, 50)))
        taken = [names(await backend.broker.fetch(["q"], 10, lease=LONG, wait=0))]
        assert [sorted(names) for names in taken] == [["-1", "-99", "0", "10", "50"]]
        assert taken[0][:2] in (["10", "50"], ["50", "10"])
        assert taken[0][-2:] in (["-1", "-99"], ["-99", "-1"])


@pytest.fixture(params=["alone", "with a companion"])
def companion(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "alone" else f"sqlite:///{tmp_path}/companion.db"


async def test_under_load_a_job_costs_a_third_of_a_call(sqs: Process, front: Front, companion: str | None) -> None:
    app = App(Tenant(sqs, front.url).url, slots=100, companion=companion)
    ended: list[int] = []
    done = anyio.Event()

    @app.task(idempotent=True)
    async def note(n: int) -> None:
        ended.append(n)
        if len(ended) == 1000:
            done.set()

    async with app:
        await app.defer_many(note.call(n) for n in range(1000))
        async with app.working():
            with anyio.fail_after(60):
                await done.wait()
    print(f"calls a job: {front.calls.total() / 1000:.3f}, of {dict(front.calls)}")  # noqa: T201 the figure
    assert front.calls.total() <= 0.35 * 1000


async def test_an_idle_queue_costs_one_poll_at_a_time(sqs: Process, front: Front, companion: str | None) -> None:
    settings = Settings(url=Tenant(sqs, front.url, poll=1).url, companion=companion)
    async with open_backend(settings, lambda _: None) as backend:
        began = asyncio.get_running_loop().time()
        for _ in range(12):
            assert not await backend.broker.fetch(["q"], 100, lease=LONG, wait=0.25)
        polls = ceil(asyncio.get_running_loop().time() - began)
        # With polls of twenty seconds that is 180 an hour.
        assert front.calls["ReceiveMessage"] <= polls + 1


async def test_calls_that_come_together_share_requests(sqs: Process, front: Front) -> None:
    async with Tenant(sqs, front.url).open() as backend:
        assert await nothing(backend.broker, "q")
        await asyncio.gather(*(add(backend.broker, a_job("q", str(n))) for n in range(100)))
        taken: list[Delivery] = await take(backend.broker, "q", 100)
        await asyncio.gather(*(backend.broker.extend([delivery.receipt], LONG) for delivery in taken))
        await asyncio.gather(*(ack(backend.broker, delivery) for delivery in taken))
    batches = {name: count for name, count in front.calls.items() if name.endswith("Batch")}
    assert batches == {"SendMessageBatch": 10, "ChangeMessageVisibilityBatch": 10, "DeleteMessageBatch": 10}


async def test_batches_are_packed_by_bytes(sqs: Process, front: Front) -> None:
    async with Tenant(sqs, front.url, max_size=262_144).open() as backend:
        await add(backend.broker, *(a_job("q", str(n), body=b"x" * 75_000) for n in range(10)))
        assert front.calls["SendMessageBatch"] == 5
        assert len(await take(backend.broker, "q", 10)) == 10


async def test_what_a_poll_brings_to_nobody_is_handed_back(sqs: Process) -> None:
    tenant = Tenant(sqs)
    async with tenant.open() as other:
        assert await nothing(other.broker, "q")
        async with tenant.open(poll=2) as gone:
            assert not await gone.broker.fetch(["q"], 10, lease=LONG, wait=0.1)
            await add(other.broker, a_job("q", "as it closes"))
        assert names(await take(other.broker, "q")) == ["as it closes"]
        async with tenant.open(poll=2) as idle:
            assert not await idle.broker.fetch(["q"], 10, lease=LONG, wait=0.1)
            await add(other.broker, a_job("q", "while it does something else"))
            assert names(await take(other.broker, "q")) == ["while it does something else"]


async def test_however_often_a_message_is_handed_back_that_is_no_loss(sqs: Process) -> None:
    tenant = Tenant(sqs)
    async with tenant.open() as other:
        await add(other.broker, a_job("q"))
        for _ in range(5):
            async with tenant.open() as gone:
                assert isinstance(gone.broker, SqsBroker)
                taken = await gone.broker.fetch(["q"], 1, lease=0.2, wait=5)
                await gone.broker.hand_back(taken)
        delivery = await take_one(other.broker, "q")
        assert (delivery.attempt, delivery.losses <= 1, delivery.fence) == (1, True, 6)


async def test_of_a_batch_that_failed_in_part_only_that_is_sent_again(sqs: Process) -> None:
    async with sqs_front(sqs.url, Rates(partly=0.2), seed=3) as front, Tenant(sqs, front.url).open() as backend:
        await add(backend.broker, *(a_job("q", f"{n:03}") for n in range(100)))
        taken = {delivery.job.id: delivery for delivery in await take(backend.broker, "q", 100)}
        failed = front.done["partly"]
        assert failed
        assert front.calls["SendMessageBatch"] > 10
        assert len(taken) >= 100 - failed // 2


async def test_of_a_batch_each_entry_has_its_own_answer() -> None:
    sent: list[list[str]] = []

    async def send(entries: Sequence[Fields]) -> Answer:
        sent.append([entry.MessageBody for entry in entries])
        failed = {
            "bad": Failure("", "InvalidMessageContents", "no", SenderFault=True),
            "busy": Failure("", "Throttled"),
        }
        found = [(entry.Id, failed[entry.MessageBody]) for entry in entries if entry.MessageBody in failed]
        return Answer([Failure(name, why.Code, why.Message, why.SenderFault) for name, why in found])

    batches = Batches("SendMessageBatch", send, 1000)
    bodies = ["good", "bad", "busy", "fine"]
    answers = await asyncio.gather(*(batches.add(Fields(MessageBody=body)) for body in bodies), return_exceptions=True)
    assert [answer if answer is None else code_of(answer) for answer in answers] == [
        None,
        "InvalidMessageContents",
        "Throttled",
        None,
    ]
    assert sent == [bodies, *([["busy"]] * (TRIES - 1))]


async def test_a_throttled_call_is_made_again(sqs: Process) -> None:
    async with sqs_front(sqs.url, Rates(throttle=0.1), seed=4) as front, Tenant(sqs, front.url).open() as backend:
        for n in range(30):
            await add(backend.broker, a_job("q", str(n)))
            await ack(backend.broker, await take_one(backend.broker, "q"))
        assert front.done["throttle"]
