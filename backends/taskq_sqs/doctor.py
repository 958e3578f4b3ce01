"""What endangers jobs in the queues as they are set, and what calls cost."""

from collections.abc import Mapping

import msgspec

from taskq.broker import Doctor, Finding
from taskq.errors import BrokerRejected
from taskq_sqs.batches import Fields
from taskq_sqs.extender import stands
from taskq_sqs.queues import Queues

_DAY = 86_400
_SHORT = 4 * _DAY
"""Of retention: a long weekend."""
_FEW = 10
"""Receives after which SQS may set a message aside: a worker hands some back and counts what it loses by itself."""

_APPLY = "run `taskq sqs apply`"
_PERMISSIONS = (
    "sqs:GetQueueUrl, sqs:GetQueueAttributes, sqs:SendMessage, sqs:ReceiveMessage, sqs:DeleteMessage and "
    "sqs:ChangeMessageVisibility, and for this command sqs:ListQueues"
)


def doctor(queues: Queues) -> Doctor:
    """Looks at every queue with our prefix."""

    async def examine() -> list[Finding]:
        try:
            known = await queues.known()
            found = {name: await queues.attributes(await queues.url(name)) for name in known}
            permitted = [await _permitted(queues, name) for name in known]
        except BrokerRejected as error:
            return [Finding("permissions", "error", str(error), f"grant {_PERMISSIONS}")]
        findings = [*_missing(queues, found), *filter(None, permitted)]
        for name, attributes in found.items():
            findings += _waits(name, attributes)
            if queues.names.queue_of(name) is not None and not _is_dead(queues, name):
                findings += _sets_aside(name, attributes, found)
        return [*findings, _cost(queues, found)]

    return examine


def _is_dead(queues: Queues, name: str) -> bool:
    queue = queues.names.queue_of(name)
    return queue is not None and name == queues.names.dead(queue)


def _missing(queues: Queues, found: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    owners = {queue for queue in map(queues.names.queue_of, found) if queue is not None}
    if not owners:
        kind = "FIFO" if queues.names.fifo else "standard"
        return [Finding("queues", "warning", f"no {kind} queue has the prefix {queues.names.prefix!r}", _APPLY)]
    return [
        Finding(name, "error", f"this part of queue {queue!r} is missing", _APPLY)
        for queue in sorted(owners)
        for name in queues.names.all_of(queue)
        if name not in found
    ]


def _waits(name: str, attributes: Mapping[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    retention, delay = int(attributes.get("MessageRetentionPeriod", 0)), int(attributes.get("DelaySeconds", 0))
    if retention < _SHORT:
        message = f"what waits here for {retention / _DAY:.1f} days is lost: a backlog, a paused queue, a dead letter"
        findings.append(Finding(name, "error" if retention < _DAY else "warning", message, _APPLY))
    else:
        findings.append(Finding(name, "ok", f"a message may wait for {retention / _DAY:.0f} days"))
    if delay:
        message = f"the queue holds every job back for {delay} seconds"
        findings.append(Finding(name, "warning", message, "set its DelaySeconds to 0"))
    if attributes.get("FifoThroughputLimit") == "perQueue":
        message = "all message groups together may make 300 calls a second"
        findings.append(Finding(name, "warning", message, _APPLY))
    return findings


def _sets_aside(name: str, attributes: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    policy = msgspec.json.decode(attributes.get("RedrivePolicy", "{}"), type=dict[str, str | int])
    receives, target = int(policy.get("maxReceiveCount", 0)), policy.get("deadLetterTargetArn")
    if not receives:
        message = "it has no redrive policy: what makes workers die before they can count it comes for ever"
        return [Finding(name, "warning", message, _APPLY)]
    if receives < _FEW:
        message = f"SQS sets a message aside after {receives} receives, retried by nobody and without an outcome"
        return [Finding(name, "warning", message, _APPLY)]
    if target not in {other.get("QueueArn") for other in found.values()}:
        message = f"what SQS sets aside goes to {target}, beside the dead letters of the workers"
        return [Finding(name, "warning", message, _APPLY)]
    return []


async def _permitted(queues: Queues, name: str) -> Finding | None:
    """A void receipt is refused as void by those who may use one."""
    for action, entry in (
        ("DeleteMessageBatch", Fields(ReceiptHandle="void")),
        ("ChangeMessageVisibilityBatch", Fields(ReceiptHandle="void", VisibilityTimeout=1)),
    ):
        try:
            await stands(queues.batches(action, name).add(entry))
        except BrokerRejected as error:
            return Finding(name, "error", str(error), f"grant {_PERMISSIONS}")
    return None


def _cost(queues: Queues, found: Mapping[str, object]) -> Finding:
    polls, lines = 3600 // queues.settings.poll, max(1, sum(not _is_dead(queues, name) for name in found))
    message = (
        f"about 0.3 requests a job in full batches and 3 for one alone; an idle worker of all {lines} queues makes "
        f"{polls * lines} an hour"
    )
    return Finding("cost", "ok", message)
