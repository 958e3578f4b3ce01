"""Jobs as messages and back: what another language may write, and what is sent in a delivery's place."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskq_sqs import message
from taskq_sqs.deliveries import Message, Moments, delivery_of
from taskq_sqs.message import Receipt, Undecodable
from taskq_sqs.names import Names

from taskq.errors import BrokerRejected, PayloadTooLarge
from taskq.job import Delivery, Job, Nack

SENT = 1_800_000_000.0
LIMIT = 1 << 20


def received(
    body: str, *, receives: int = 1, after: float = 0.0, now: float | None = None, fifo: bool = False
) -> Delivery:
    """The delivery of a message that was first received ``after`` seconds and now at ``now``."""
    moments = Moments(str(int(SENT * 1e3)), str(receives), str(int((SENT + after) * 1e3)))
    found = Message("message-1", "handle", body, moments)
    return delivery_of(found, "mail", 0, 0, lease=30.0, now=now or SENT + after, fifo=fifo)


def held(delivery: Delivery) -> Receipt:
    receipt = message.read_receipt(delivery.receipt)
    assert receipt is not None
    return receipt


def test_a_task_and_its_arguments_are_enough() -> None:
    delivery = received('{"task": "mail.send", "args": {"to": "ada"}}')
    job = delivery.job
    assert (job.id, job.task, job.body) == ("message-1", "mail.send", b'{"v":1,"args":{"to": "ada"}}')
    assert (delivery.attempt, delivery.losses, delivery.due, delivery.expires_at) == (1, 0, SENT, None)


def test_a_message_may_say_when() -> None:
    delivery = received('{"task": "t", "delay": 60, "expires_in": 5, "headers": {"a": "b"}, "new": 1}', after=61)
    assert (delivery.due, delivery.expires_at, delivery.job.headers) == (SENT + 60, SENT + 65, {"a": "b"})
    assert received(f'{{"task": "t", "run_at": {SENT + 9}}}').due == SENT + 9
    assert received('{"task": "t", "run_at": 1}').due == SENT


def test_a_message_from_sns_is_taken_out_of_its_envelope() -> None:
    envelope = {"Type": "Notification", "TopicArn": "arn", "Message": '{"task": "t", "args": {}}', "Subject": "s"}
    assert received(json.dumps(envelope)).job.task == "t"
    assert received('{"task": "t", "headers": {"Type": "Notification"}}').job.task == "t"


@pytest.mark.parametrize(
    "body", ["", "hello", "{}", "[]", '{"task": 1}', '{"task": "t", "v": 2}', '{"task": "t", "body": "?"}']
)
def test_what_is_no_job_is_told_from_one(body: str) -> None:
    with pytest.raises(Undecodable):
        received(body)


def test_a_call_stands_in_its_message_as_it_is_readable() -> None:
    job = Job(id="1", task="mail.send", body=b'{"v":1,"args":{"to":"ada"}}')
    assert json.loads(message.written(job, LIMIT)) == {"task": "mail.send", "id": "1", "args": {"to": "ada"}}


@given(st.binary(max_size=50) | st.text(max_size=20).map(lambda text: b'{"v":1,"args":{"a":"%b"}}' % text.encode()))
def test_any_body_arrives_as_it_was(body: bytes) -> None:
    text = message.written(Job(id="1", task="t", body=body), LIMIT).decode()
    arrived = received(text).job.body
    assert arrived == body or msgspec.json.decode(arrived) == msgspec.json.decode(body)
    assert "\ufffe" not in text
    assert "\uffff" not in text


def test_what_is_too_large_or_no_text_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match=r"3,0.. bytes"):
        message.written(Job(id="1", task="t", body=b"x" * 2250), 2000)
    with pytest.raises(BrokerRejected, match="not valid Unicode"):
        message.written(Job(id="1", task="t", body=b"", headers={"a": "\ud800"}), LIMIT)


def test_a_nack_sends_the_job_with_what_happened_to_it() -> None:
    first = received(
        '{"task": "t", "args": {"n": 1}, "expires_in": 60, "headers": {"a": "b"}}', receives=2, after=1, now=SENT + 40
    )
    assert (first.attempt, first.losses, first.fence) == (1, 1, 2)
    body = message.again(held(first), Nack(first.receipt, 7.5, error=b'{"errors":[]}'), SENT + 41)
    second = received(message.text_of(body).decode())
    assert (second.attempt, second.losses, second.fence, second.error) == (2, 1, 3, b'{"errors":[]}')
    assert (second.due, second.expires_at) == (SENT + 7.5, SENT + 60)
    assert (second.job.id, second.job.body, second.job.headers) == ("message-1", b'{"v":1,"args":{"n": 1}}', {"a": "b"})
    third = message.again(held(second), Nack(second.receipt, 0, counted=False), SENT + 50)
    assert (third.attempt, third.error, third.delay) == (2, msgspec.Raw(b'{"errors":[]}'), None)


def test_a_job_that_is_not_due_keeps_its_moment_over_every_hop() -> None:
    delivery = received(f'{{"task": "t", "run_at": {SENT + 5000}}}', after=900)
    for hop in range(1, 4):
        now = SENT + 900 * hop + 3.3
        body = message.again(held(delivery), Nack(delivery.receipt, delivery.due - delivery.now, counted=False), now)
        assert body.run_at == SENT + 5000
        delivery = received(message.text_of(body).decode(), after=900)


def test_a_dead_letter_that_is_moved_back_begins_anew() -> None:
    last = received('{"task": "t", "id": "one", "attempt": 9, "losses": 2, "expires_at": 5}')
    aside = message.text_of(message.set_aside(held(last), b'{"end":"failed"}')).decode()
    assert json.loads(aside)["outcome"] == {"end": "failed"}
    revived = received(aside)
    assert (revived.job.id, revived.attempt, revived.losses, revived.expires_at) == ("one", 1, 0, None)
    assert "outcome" not in message.text_of(message.again(held(revived), Nack(revived.receipt, 0), SENT)).decode()


def test_what_is_said_of_errors_gives_way_to_the_job() -> None:
    last = received('{"task": "t", "args": {"a": "b"}}')
    body = message.set_aside(held(last), b"x" * 5000)
    assert json.loads(message.fitting(body, 1000)) == {
        "task": "t",
        "id": "message-1",
        "args": {"a": "b"},
        "fence": 1,
    }


def test_a_receive_that_took_no_lease_of_time_is_no_loss() -> None:
    assert [received('{"task": "t"}', receives=4, now=SENT + now).losses for now in (1, 31, 61, 500)] == [0, 1, 2, 3]
    held_back = received('{"task": "t", "delay": 100}', receives=2, now=SENT + 100, fifo=True)
    assert (held_back.losses, held_back.due) == (0, SENT + 100)


@pytest.mark.parametrize("receipt", ["", "unknown-1", "a b\nc\nd", "q 0 x y 1 1 m\n{}\nhandle"])
def test_what_never_was_a_receipt_is_void(receipt: str) -> None:
    assert message.read_receipt(receipt) is None


@pytest.mark.parametrize(
    ("seconds", "hop"), [(-1.0, 0), (0.0, 0), (0.1, 1), (60.0, 60), (900.1, 900), (float("inf"), 900)]
)
def test_a_hop_is_never_too_short_and_at_most_a_quarter_of_an_hour(seconds: float, hop: int) -> None:
    assert message.hop(seconds) == hop


def test_a_fifo_token_is_the_text_itself_or_stands_for_it() -> None:
    assert message.token("account-7") == "account-7"
    assert len(message.token("日本" * 200)) == len(message.token("a b")) == 64


QUEUES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,50}\Z").filter(
    lambda queue: "__" not in queue and "--" not in queue and not queue.endswith("-")
)


@given(QUEUES, QUEUES, st.booleans())
def test_no_two_queues_share_a_name(one: str, two: str, fifo: bool) -> None:
    names = Names("prefix", fifo, (10, 0, -3))
    theirs = [names.all_of(queue) for queue in {one, two}]
    assert len({name for mine in theirs for name in mine}) == 4 * len(theirs)
    for queue in (one, two):
        assert {names.queue_of(name) for name in names.all_of(queue)} == {queue}
        assert all(len(name) <= 80 and name.endswith(".fifo") == fifo for name in names.all_of(queue))
    assert names.queue_of("other-mail") is None


def test_a_priority_goes_to_the_first_band_that_it_reaches() -> None:
    names = Names("p", fifo=False, bands=(10, 0, -3))
    assert [names.band_of(priority) for priority in (99, 10, 9, 0, -1, -3, -9)] == [10, 10, 0, 0, -3, -3, -3]
    assert [names.of("q", band) for band in names.bands] == ["p-q--p10", "p-q", "p-q--m3"]


@pytest.mark.parametrize("queue", ["a--b", "a__b", "a-", "x" * 78])
def test_a_queue_that_cannot_be_named_is_refused(queue: str) -> None:
    with pytest.raises(BrokerRejected, match="SQS"):
        Names("prefix", fifo=False, bands=(0,)).of(queue)
