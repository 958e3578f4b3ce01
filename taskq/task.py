"""Tasks: functions with options whose calls can be deferred, typed as the functions are."""

import inspect
from collections.abc import Callable, Mapping
from functools import update_wrapper
from math import inf
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

import anyio.to_thread
import msgspec
from msgspec import Struct

from taskq.call import Call, new_id
from taskq.codec import Codec
from taskq.collect import Collect, Item
from taskq.debounce import Debounce, bounded
from taskq.definition import Definition, completed, refuse_retries
from taskq.errors import ConfigError, EncodeError
from taskq.handle import Desk, JobHandle
from taskq.job import Enqueued, Job, JobRef
from taskq.limits.declared import Limit, Limits, check_arguments, key_text, waits, ways_of
from taskq.making import make_job, shared
from taskq.options import CallOptions, Options, filled, merge
from taskq.outcome import Policy
from taskq.signature import Signature
from taskq.timeouts import check_timeouts
from taskq.unique import check_names

P = ParamSpec("P")
R = TypeVar("R")


class Client(Desk, Protocol):
    """What a task needs of the app it belongs to."""

    async def enqueue(self, job: Job, tx: Any) -> Enqueued: ...
    async def collect(self, item: Item) -> Enqueued: ...
    async def in_its_burst(self, job: Job, debounce: Debounce) -> Job: ...
    async def run_inline(self, call: Call[R]) -> R: ...
    def check_call(self, definition: Definition, options: CallOptions) -> None: ...


class Membership(Struct, frozen=True):
    """What a task knows once an app took it in."""

    client: Client
    codec: Codec
    signature: Signature
    decode: Callable[[bytes], Any]
    """Bytes of a result to the result."""
    keep: float
    """Seconds the app keeps its outcomes."""
    defaults: Mapping[str, Any]
    """What its queue's tasks have in common."""


class Home(Struct):
    """Where a task belongs; shared by all its variants, so that those made before know it, too."""

    defaults: CallOptions
    """What the app looks at when it opens."""
    member: Membership | None = None


class Task(Generic[P, R]):
    """A registered function. Calling it runs it here; ``defer`` hands the call to a worker."""

    def __init__(self, definition: Definition, options: CallOptions, home: Home) -> None:
        self.definition = definition
        self._options = options
        self._home = home
        self._shared: Job | None = None
        update_wrapper(self, definition.function)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def name(self) -> str:
        """What is stored with each job."""
        return self.definition.name

    @property
    def queue(self) -> str:
        """Where its jobs go unless a call says otherwise."""
        return self._options.queue

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """A plain call, without a queue; a sync function runs in a thread."""
        function: Callable[..., Any] = self.definition.function
        if self.definition.collect is not None:
            args, kwargs = self._gathered(args, kwargs)  # type: ignore[assignment]
        missing = [name for name in self.definition.dependencies if name not in kwargs]
        if missing:
            raise ConfigError(f"task {self.name}: {missing[0]!r} is provided to workers; pass it, or use run_inline()")
        if inspect.iscoroutinefunction(function):
            result: R = await function(*args, **kwargs)
            return result
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))

    @property
    def defaults(self) -> CallOptions:
        """What its calls say unless they say otherwise."""
        return self._options

    @property
    def signature(self) -> Signature:
        """How its calls look on the wire."""
        return self._member.signature

    @property
    def client(self) -> Client:
        """The app it belongs to; raises ConfigError when it belongs to none."""
        return self._member.client

    def decode(self, result: bytes) -> R:
        """A result from bytes."""
        value: R = self._member.decode(result)
        return value

    def policy(self, keep_dead: float | None) -> Policy:
        """What ``decide`` goes by; ``keep_dead`` is the app's, for tasks that say nothing of it."""
        own = self.definition.keep_dead
        kept = own if own is not None else inf if keep_dead is None else keep_dead
        return msgspec.structs.replace(self.definition.policy, keep=self._member.keep, keep_dead=kept)

    def options(self, **options: Unpack[Options]) -> "Task[P, R]":
        """The same task with other options for the calls made through it.

        Raises ConfigError for unknown, unfit or contradicting options, MissingCapability for what an open app's broker
        cannot do: before anything is sent.
        """
        if self.definition.collect is not None:
            raise ConfigError(f"task {self.name}: what is collected runs together, so no call has options of its own")
        merged = merge(self._options, options)
        if "attempts" in options:
            refuse_retries(self.definition)
        variant = Task[P, R](self.definition, merged, self._home)
        variant._check_timeout({})
        if self._home.member is not None:
            variant._check(self._home.member)
        return variant

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """An inert call for ``app.defer_many``. Raises EncodeError for arguments that do not fit."""
        self._refuse_inert()
        return self._inert(self._job(args, kwargs))

    def receiving(self) -> Call[R]:
        """A call whose first argument is still to come: in a chain, the result of what comes before.

        Raises ConfigError for a task that cannot be called with one value, or whose keys depend on it.
        """
        self._refuse_inert()
        signature, options = self._member.signature, self._options
        if any(waits(limit) and limit.key is not None for limit in self.definition.limits):
            raise ConfigError(f"task {self.name}: its Concurrency is by arguments, and they are still to come")
        for name, spec in (("unique", options.unique), ("group", options.group)):
            if spec is not False and not isinstance(spec, str):
                raise ConfigError(f"task {self.name}: {name}= is made of arguments that are still to come: give a text")
        return self._inert(self._made(None, signature.encode_nothing()), takes=signature.first)

    def _refuse_inert(self) -> None:
        if self.definition.collect is not None:
            raise ConfigError(f"task {self.name}: what is collected has no job of its own: defer each item")
        if bounded(self._options.debounce):
            raise ConfigError(f"task {self.name}: a debounce with at_most looks at the Store: defer each call")

    def _inert(self, job: Job, takes: str = "") -> Call[R]:
        member, commits = self._member, self.definition.transaction
        return Call(
            job=job,
            decode=member.decode,
            keep=member.keep,
            transaction=self._options.tx,
            takes=takes,
            commits=commits,
        )

    async def defer(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Hand the call to a worker: when this returns, the job is as durable as the broker declares.

        Raises EncodeError (with the argument's path) or PayloadTooLarge before anything is sent, Conflict or Vetoed
        when the job was refused, BrokerUnavailable when it is unknown whether it was taken: with ``options(id=…)``
        the call may then be repeated safely. Costs one round trip, shared with the defers made meanwhile.
        """
        member = self._member
        if self.definition.collect is None:
            job = self._job(args, kwargs)
            if bounded(self._options.debounce):
                job = await member.client.in_its_burst(job, self._options.debounce)
            enqueued = await member.client.enqueue(job, self._options.tx)
        else:
            enqueued = await member.client.collect(self._item(self.definition.collect, args, kwargs))
        return self.handle(enqueued.id, added=enqueued.added, dropped=enqueued.dropped)

    def handle(self, id: str, *, added: bool = True, dropped: bool = False) -> JobHandle[R]:
        """A handle of its job of this id, whoever deferred it."""
        member, ref = self._member, JobRef(self.queue, id)
        return JobHandle(member.client, ref, member.decode, member.keep, added=added, dropped=dropped)

    def defer_sync(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As :meth:`defer`, from code without an event loop; raises RuntimeError inside one."""
        handle: JobHandle[R] = self._member.client.run_sync(lambda: self.defer(*args, **kwargs))
        return handle

    async def run_inline(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run here and now as a worker would, once; with retries: :meth:`taskq.App.run_inline`."""
        if self.definition.collect is not None:
            args, kwargs = self._gathered(args, kwargs)  # type: ignore[assignment]
        return await self._member.client.run_inline(self._inert(self._job(args, kwargs)))

    @property
    def _member(self) -> Membership:
        if self._home.member is None:
            raise ConfigError(f"task {self.name} belongs to no app yet: app.include() the collection it is in")
        return self._home.member

    def _check_timeout(self, defaults: Mapping[str, Any]) -> None:
        if self._options.timeout is not None:
            bounds = completed(self.definition, defaults).timeouts
            check_timeouts(self.name, msgspec.structs.replace(bounds, run=self._options.timeout))

    def _check(self, member: Membership) -> None:
        self._check_timeout(member.defaults)
        check_names(self._options.unique, self.name, member.signature.names)
        check_names(self._options.group, self.name, member.signature.names)
        if self.definition.collect is not None and not member.signature.takes_a_list:
            raise ConfigError(f"task {self.name} collects: let it take one argument, a list of items")
        check_arguments(self.definition.limits, self.name, member.signature.names)
        if self._options.group is not False and any(map(waits, self.definition.limits)):
            raise ConfigError(f"task {self.name}: a Concurrency waits by groups, so it cannot have a group= as well")
        member.client.check_call(self.definition, self._options)

    @property
    def limits(self) -> Limits | None:
        """What a worker asks before it runs a job of it."""
        name, member = self.name, self._member

        def store_key(limit: Limit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
            known = {**member.signature.defaults, **member.signature.bind(args, kwargs)}
            return limit.store_key(name, key_text(limit, name, known, member.codec))

        ways = ways_of(self.definition.limits)
        return Limits(ways, store_key) if any(ways) else None

    def _gathered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a run with this one item."""
        if len(args) != 1 or kwargs:
            raise EncodeError(f"{self.name}: it collects items: pass one, by position")
        return ([args[0]],), {}

    def _item(self, collect: Collect, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Item:
        member = self._member
        job = self._job(*self._gathered(args, kwargs))
        (argument,) = member.signature.names
        window = msgspec.structs.replace(job, body=member.signature.encode({argument: []}))
        return Item(collect, collect.key_text(self.name, args[0], member.codec), member.codec.encode(args[0]), window)

    def _job(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        signature = self._member.signature
        arguments = signature.bind(args, kwargs)
        body = signature.encode(arguments)
        if self._shared is not None:
            return msgspec.structs.replace(self._shared, id=new_id(), body=body)
        return self._made(arguments, body)

    def _made(self, arguments: Mapping[str, Any] | None, body: bytes) -> Job:
        member = self._member
        if self._options is not self._home.defaults:
            # It may have been made before there was a queue's word to heed, or a broker to ask.
            self._options = filled(self._options, member.defaults)
            self._check(member)
        return make_job(self.definition, self._options, member.signature, member.codec, arguments, body)

    def join(self, client: Client, codec: Codec, keep: float | None, defaults: Mapping[str, Any]) -> Membership:
        """Make the task an app's own, with the ``defaults`` of its queue's tasks.

        ``keep`` None: an hour for what a task returns, nothing without result.
        """
        if self._home.member is not None and self._home.member.client is not client:
            raise ConfigError(f"task {self.name} belongs to another app already")
        if self.definition.collect is not None:
            defaults = {name: value for name, value in defaults.items() if name != "expires_in"}
        self.definition = completed(self.definition, defaults)
        self._options = self._home.defaults = filled(self._options, defaults)
        signature = Signature(self.definition.function, codec, injected=frozenset(self.definition.dependencies))
        keep = self.definition.keep if self.definition.keep is not None else keep
        if keep is None:
            keep = 0.0 if signature.returns in (None, type(None)) else 3600.0
        member = Membership(client, codec, signature, codec.decoder(signature.returns), keep, defaults)
        self._check(member)
        self._home.member = member
        self._shared = shared(self.definition, self._options)
        return member
