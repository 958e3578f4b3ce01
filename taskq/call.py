"""Inert calls: of one task, one after another (``a.call(1).then(b)``), side by side (``gather(a.call(1), b.call(2))``).

Nothing happens to them before they are handed to ``app.defer``, ``defer_many`` or a batch.
"""

import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError
from taskq.job import Job
from taskq.sequel import Plan, Step, planned, renamed

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
S = TypeVar("S")
R_contra = TypeVar("R_contra", contravariant=True)

_NO_PLACE = "a gather has no place in a gather or batch: use a batch in a batch"


class Call(Struct, Generic[R], frozen=True, kw_only=True, gc=False):
    """One call of a task that nothing has happened to yet."""

    job: Job
    decode: Callable[[bytes], R]
    """Bytes of a result to the result."""
    keep: float
    """Seconds the result will be kept."""
    transaction: Any = None
    """The caller's own transaction to enqueue in, if any."""
    takes: str = ""
    """The argument that is still open: the result of what comes before."""
    commits: bool = False
    """The handler's transaction commits together with the job's end."""

    def start(self) -> Job:
        """Its job; raises ConfigError while its value is still to come."""
        if self.takes:
            raise ConfigError(f"task {self.job.task}: this call's {self.takes!r} is still to come: give it to then()")
        return self.job

    @overload
    def then(self, following: "Call[S]") -> "Chain[S]": ...
    @overload
    def then(self, following: "Takes[R, S]") -> "Chain[S]": ...
    def then(self, following: "Call[S] | Takes[R, S]") -> "Chain[S]":
        """When this has returned: a task is called with its result, a call as it is."""
        return Chain(head=self, rest=(received(following),))

    def on_failure(self, told: "Call[Any] | Takes[Any, Any]") -> "Chain[R]":
        """When this ends in any other way: a task is called with a :class:`~taskq.Death`, a call as it is."""
        return Chain(head=self, failed=received(told))


class Takes(Protocol[R_contra, S]):
    """A task that can be called with one value."""

    def call(self, value: R_contra, /) -> Call[S]:
        """A call with this value."""
        ...

    def receiving(self) -> Call[S]:
        """A call whose value is still to come."""
        ...


class Gather(Struct, Generic[R], frozen=True):
    """Calls that run side by side; ``R`` is the tuple of their results, in the order of the calls."""

    members: "tuple[Call[Any] | Chain[Any], ...]"

    @overload
    def then(self, following: Call[S]) -> "Chain[S]": ...
    @overload
    def then(self, following: Takes[R, S]) -> "Chain[S]": ...
    def then(self, following: Call[S] | Takes[R, S]) -> "Chain[S]":
        """When all have returned: a task is called with their results, a call as it is."""
        return Chain(head=self, rest=(received(following),))


class Chain(Struct, Generic[R], frozen=True, kw_only=True):
    """Calls that run one after another; ``R`` is what the last one returns. One that does not return ends it."""

    head: Call[Any] | Gather[Any]
    rest: tuple[Call[Any], ...] = ()
    failed: Call[Any] | None = None

    def start(self) -> Job:
        """Its first job, with all that follows in the headers; raises ConfigError when it begins with a gather."""
        if isinstance(self.head, Gather):
            raise ConfigError(_NO_PLACE)
        job = self.head.start()
        return renamed(planned(job, self.plan()), job.id)

    def plan(self) -> Plan:
        """What follows its head."""
        steps = tuple(Step(call.job, call.takes) for call in self.rest)
        failed = None if self.failed is None else Step(self.failed.job, self.failed.takes)
        return Plan(next=steps, failed=failed, keeps=bool(steps or failed))

    @overload
    def then(self, following: Call[S]) -> "Chain[S]": ...
    @overload
    def then(self, following: Takes[R, S]) -> "Chain[S]": ...
    def then(self, following: Call[S] | Takes[R, S]) -> "Chain[S]":
        """When the last one has returned: a task is called with its result, a call as it is."""
        return Chain(head=self.head, rest=(*self.rest, received(following)), failed=self.failed)

    def on_failure(self, told: Call[Any] | Takes[Any, Any]) -> "Chain[R]":
        """When one of them ends without returning: a task is called with its :class:`~taskq.Death`."""
        if self.failed is not None:
            raise ConfigError("this chain has an on_failure already: it has one for all its calls")
        return msgspec.structs.replace(self, failed=received(told))


def received(following: "Call[S] | Takes[Any, S]") -> Call[S]:
    """A task's call with its value still to come, or the call that was given; raises ConfigError for what cannot be.

    What follows is enqueued by a worker, so no transaction of the caller's can take part in it.
    """
    call = following if isinstance(following, Call) else following.receiving()
    if call.transaction is not None:
        raise ConfigError(f"task {call.job.task}: what follows is enqueued later, outside of any tx=: leave it out")
    return call


@overload
def gather(first: Call[A] | Chain[A], /) -> Gather[tuple[A]]: ...
@overload
def gather(first: Call[A] | Chain[A], second: Call[B] | Chain[B], /) -> Gather[tuple[A, B]]: ...
@overload
def gather(
    first: Call[A] | Chain[A], second: Call[B] | Chain[B], third: Call[C] | Chain[C], /
) -> Gather[tuple[A, B, C]]: ...
@overload
def gather(
    first: Call[A] | Chain[A], second: Call[B] | Chain[B], third: Call[C] | Chain[C], fourth: Call[D] | Chain[D], /
) -> Gather[tuple[A, B, C, D]]: ...
@overload
def gather(*calls: Call[A] | Chain[A]) -> Gather[tuple[A, ...]]: ...
def gather(*calls: Call[Any] | Chain[Any]) -> Gather[Any]:
    """Calls to run side by side, for their results; a batch is for many more.

    Raises ConfigError for a call twice, and for a gather.
    """
    for call in calls:
        refuse_gather(call)
    ids = [call.job.id for call in calls if isinstance(call, Call)]
    if len(set(ids)) < len(ids):
        raise ConfigError("gather(): a call is given twice, and one job cannot have two places: make two calls")
    return Gather(calls)


def refuse_gather(member: object) -> None:
    """Raises ConfigError for a gather, or a chain that begins with one, where one end has to be told of."""
    if isinstance(member, Gather) or (isinstance(member, Chain) and isinstance(member.head, Gather)):
        raise ConfigError(_NO_PLACE)


async def each(calls: Iterable[A] | AsyncIterable[A]) -> AsyncIterator[A]:
    """The elements of either kind of iterable, one at a time."""
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            yield call
    else:
        for call in calls:
            yield call


async def batched(calls: Iterable[A] | AsyncIterable[A], size: int) -> AsyncIterator[Sequence[A]]:
    """The elements of either kind of iterable, up to ``size`` at a time."""
    if isinstance(calls, AsyncIterable):
        some: list[A] = []
        async for call in calls:
            some.append(call)
            if len(some) == size:
                yield some
                some = []
        if some:
            yield some
    else:
        rest = iter(calls)
        while taken := [*islice(rest, size)]:
            yield taken


def new_id() -> str:
    """A UUIDv7 (RFC 9562, method 3) as 32 hexadecimal digits: later ones sort behind earlier ones, to 0.25 µs."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    # Half of it at a time, and from bytes: a number of 128 bits takes twice as long.
    moment = milliseconds << 16 | 0x7000 | rest * 4096 // 1_000_000
    return f"{moment.to_bytes(8).hex()}8{os.urandom(8).hex()[1:]}"
