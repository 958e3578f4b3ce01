"""A chain or gather into jobs."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from taskq.broker import Backend
from taskq.call import Call, Chain, Gather, new_id, refuse_gather
from taskq.errors import ConfigError, MissingCapability
from taskq.flow.draft import named
from taskq.flow.handle import FlowHandle
from taskq.flow.members import Membership
from taskq.flow.places import numbered
from taskq.flow.record import CHUNK, Record
from taskq.flow.stages import Chunk, Making, Opening, Sealing, Spool
from taskq.handle import Desk, JobHandle
from taskq.job import Enqueued, Job, JobRef
from taskq.sequel import FLOW, KEPT, Plan, plan_of, planned
from taskq.store import Store

R = TypeVar("R")


class Host(Desk, Protocol):
    """What flows need of their app."""

    @property
    def backend(self) -> Backend: ...
    @property
    def sending(self) -> Backend:
        """As callers who defer see it."""
        ...

    @property
    def spool(self) -> Spool | None: ...
    def refuse_transaction(self, what: str) -> None:
        """Raises ConfigError inside of a transaction, in which this has no part."""
        ...

    @property
    def store(self) -> Store: ...
    async def prepare(self, job: Job) -> Job:
        """The job as its defer middleware leaves it; raises what refuses it."""
        ...

    async def cancel_many(self, refs: Sequence[JobRef]) -> None:
        """Ask for jobs to be cancelled."""
        ...

    async def send(self, job: Job, tx: Any) -> Enqueued:
        """Enqueue a prepared job; raises what refuses it."""
        ...


async def prepare_all(host: Host, job: Job) -> Job:
    """A job and what follows it, as they would be deferred one by one."""
    plan = plan_of(job)
    prepared = await host.prepare(job)
    return prepared if plan is None else planned(prepared, await prepare_plan(host, plan))


async def prepare_plan(host: Host, plan: Plan) -> Plan:
    """As :func:`prepare_all`, for what follows."""
    steps = tuple([replace(step, job=await host.prepare(step.job)) for step in plan.next])
    failed = None if plan.failed is None else replace(plan.failed, job=await host.prepare(plan.failed.job))
    return replace(plan, next=steps, failed=failed)


def refuse_member(member: Call[Any] | Chain[Any]) -> None:
    """Raises ConfigError for what cannot leave a batch with its end."""
    refuse_gather(member)
    calls = [member] if isinstance(member, Call) else [member.head, *member.rest]
    first, last = calls[0], calls[-1]
    if isinstance(last, Call) and last.commits:
        raise ConfigError(
            f"task {last.job.task}: a batch is left before the end is settled, and transaction=True settles within the "
            "transaction: leave it out, or let the member enqueue it"
        )
    if isinstance(first, Call) and first.transaction is not None:
        raise ConfigError(f"task {first.job.task}: members are enqueued outside of any tx=: leave it out")


async def start(host: Host, flow: Call[R] | Chain[R] | Gather[R]) -> FlowHandle[R]:
    """Enqueue what a flow begins with; the rest is enqueued by workers."""
    chain: Chain[R] = flow if isinstance(flow, Chain) else Chain(head=flow)
    if isinstance(chain.head, Gather):
        return await _start_gather(host, chain, chain.head)
    job = await prepare_all(host, chain.start())
    if FLOW in job.headers and host.backend.store is None:
        # Without one a crash at the job's end would enqueue what follows once more.
        raise MissingCapability(
            f"task {job.task}: what follows its end needs a store, which this broker has not: pair it with a companion "
            "store, or choose another broker"
        )
    answer = await host.send(job, chain.head.transaction)
    jobs = [replace(job, id=answer.id), *_behind(job)]
    keep = KEPT if FLOW in job.headers else 0.0
    calls = [chain.head, *chain.rest]
    handles = [_handle(host, call, job, keep, answer) for call, job in zip(calls, jobs, strict=True)]
    return FlowHandle(handles[-1].id, handles)


async def _start_gather(host: Host, chain: Chain[R], gather: Gather[Any]) -> FlowHandle[R]:
    host.refuse_transaction("a gather")
    for member in gather.members:
        refuse_member(member)
    firsts = [await prepare_all(host, member.start()) for member in gather.members]
    name = f"{firsts[0].id if firsts else new_id()}.all"
    plan = named(await prepare_plan(host, chain.plan()), f"{name}.succeeded")
    chunks = [
        numbered(name, "0", number, firsts[number * CHUNK : (number + 1) * CHUNK], collects=True)
        for number in range(-(-len(firsts) // CHUNK))
    ]
    lines = [[job, *_behind(job)] for chunk in chunks for job in chunk]
    if not plan.next and plan.failed is None:
        # Nobody waits for all of them but the caller, who can ask each.
        members = Membership(host.store, host.sending.broker)
        answers = await members.enqueue([_alone(job) for chunk in chunks for job in chunk])
        if errors := [answer.error for answer in answers if answer.error is not None]:
            raise errors[0]
    else:
        await _open_and_seal(host, name, chunks, plan, [line[-1] for line in lines])
    each = [
        [_handle(host, call, job) for call, job in zip(_calls(member), line, strict=True)]
        for member, line in zip(gather.members, lines, strict=True)
    ]
    handles = [handle for line in each for handle in line]
    if not chain.rest:
        return FlowHandle(name, handles, [line[-1] for line in each])
    rest = [_handle(host, call, step.job) for call, step in zip(chain.rest, plan.next, strict=True)]
    return FlowHandle(rest[-1].id, [*handles, *rest])


async def _open_and_seal(
    host: Host, id: str, chunks: Sequence[Sequence[Job]], plan: Plan, lasts: Sequence[Job]
) -> None:
    plans = {"succeeded": plan} if plan.next else {}
    if plan.failed is not None:
        plans["first_failure"] = Plan(next=(plan.failed,))
    results = tuple(JobRef(job.queue, job.id) for job in lasts)
    making = Making(host.store, host.backend, host.spool)
    await making.do(Opening(id, Record(plans=plans, results=results, gathers=True)))
    parts = [Chunk(id, f"0/{number}", tuple(chunk)) for number, chunk in enumerate(chunks)]
    errors = [error for part in parts for error in (await making.do(part)).values()]
    await making.do(Sealing(id))
    if errors:
        raise errors[0]


def _alone(job: Job) -> Job:
    """A member that nothing waits for but the caller."""
    return planned(job, replace(plan_of(job) or Plan(), place=None))


def _behind(job: Job) -> list[Job]:
    plan = plan_of(job)
    return [] if plan is None else [step.job for step in plan.next]


def _calls(member: Call[Any] | Chain[Any]) -> list[Call[Any]]:
    if isinstance(member, Call):
        return [member]
    return [call for call in (member.head, *member.rest) if isinstance(call, Call)]


def _handle(desk: Desk, call: Call[R], job: Job, keep: float = KEPT, answer: Enqueued | None = None) -> JobHandle[R]:
    dropped = answer is not None and answer.dropped
    ref = JobRef(job.queue, job.id)
    return JobHandle(desk, ref, call.decode, max(call.keep, keep), added=not dropped, dropped=dropped)
