"""Which server to ask for what: the only one, the master that sentinels name, or the node that serves a key's slot."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from redis import exceptions
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from taskq_redis.faults import DRIVER_ERRORS
from taskq_redis.lane import Abandoned, Lane, Sent, opened
from taskq_redis.settings import Host, Target, shown
from taskq_redis.wire import Argument, Reply

Command = Sequence[Argument]

_GONE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError)
"""What a node says, or does not say, that may have handed its slots to another."""

_PAUSE = 0.05
"""Seconds between tries while a slot is on its way to another node."""


class Servers(Protocol):
    """The servers behind one URL, for one event loop."""

    def begin(self, key: bytes, packed: bytes) -> Sent | None:
        """Send what :meth:`call` is to wait for, if that takes no waiting."""
        ...

    async def call(
        self, key: bytes, command: Command, abandoned: Abandoned | None = None, sent: Sent | None = None
    ) -> Reply:
        """The reply of the server that serves a key; the rest as in a lane. Raises what the driver raises."""
        ...

    async def call_all(self, key: bytes, *commands: Command) -> list[Reply]:
        """The same for commands that nothing comes between; the first error is raised."""
        ...

    async def masters(self) -> Mapping[str, Lane]:
        """Every server that takes writes, by the address it is known under."""
        ...

    async def connect(self) -> AbstractConnection:
        """A connection of its own to a server on which every message is heard."""
        ...

    async def close(self) -> None:
        """End all connections; every later call raises."""
        ...


async def open_single(target: Target, patience: float) -> AbstractConnection:
    """A connection to the server of a URL, or to the master that its sentinels name now."""
    if target.kind != "sentinel":
        return await opened(target.connection(), patience)
    last: Exception = exceptions.ConnectionError(f"no sentinel knows a master {target.service!r}")
    for host in target.hosts:
        # Asked anew each time, since a failover is why we ask; a sentinel that is down must not use up all the time.
        sentinel = Lane(partial(opened, target.sentinel(host), patience / 2), patience=patience / 2)
        try:
            master = await sentinel.call(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", target.service)
        except DRIVER_ERRORS as error:
            last = error
            continue
        finally:
            await sentinel.close()
        match master:
            case [bytes(name), bytes(port)]:
                return await opened(target.connection((name.decode(), int(port))), patience)
            case _:
                continue
    raise last


class Single:
    """One server."""

    def __init__(self, target: Target, patience: float, hot_wait: float) -> None:
        self._target = target
        self._patience = patience
        self._lane = Lane(partial(open_single, target, patience), patience=patience, hot_wait=hot_wait)

    def begin(self, key: bytes, packed: bytes) -> Sent | None:  # noqa: ARG002 every key is here
        return self._lane.begin(packed)

    async def call(
        self,
        key: bytes,  # noqa: ARG002 every key is here
        command: Command,
        abandoned: Abandoned | None = None,
        sent: Sent | None = None,
    ) -> Reply:
        return await self._lane.call(*command, abandoned=abandoned, sent=sent)

    async def call_all(self, key: bytes, *commands: Command) -> list[Reply]:  # noqa: ARG002 every key is here
        return _sound(await self._lane.call_all(*commands))

    async def masters(self) -> Mapping[str, Lane]:
        return {self._target.name: self._lane}

    async def connect(self) -> AbstractConnection:
        return await open_single(self._target, self._patience)

    async def close(self) -> None:
        await self._lane.close()


class Cluster:
    """A lane a node. Redirections are followed here and seen by nobody."""

    def __init__(self, target: Target, patience: float, hot_wait: float) -> None:
        self._target = target
        self._patience = patience
        self._hot_wait = hot_wait
        self._lanes: dict[Host, Lane] = {}
        self._slots: dict[int, Host] = {}
        self._stale = True
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False
        self.redirections = {"MOVED": 0, "ASK": 0, "TRYAGAIN": 0}
        """How often each was met."""

    def begin(self, key: bytes, packed: bytes) -> Sent | None:
        host = self._slots.get(key_slot(key))
        lane = None if self._stale or host is None else self._lanes.get(host)
        return None if lane is None else lane.begin(packed)

    async def call(
        self, key: bytes, command: Command, abandoned: Abandoned | None = None, sent: Sent | None = None
    ) -> Reply:
        return (await self._follow_all(key, (command,), abandoned, sent))[0]

    async def call_all(self, key: bytes, *commands: Command) -> list[Reply]:
        return await self._follow_all(key, commands, None, None)

    async def _follow_all(
        self, key: bytes, commands: Sequence[Command], abandoned: Abandoned | None, sent: Sent | None
    ) -> list[Reply]:
        slot = key_slot(key)
        until = asyncio.get_running_loop().time() + self._patience
        asking: Host | None = None
        while True:
            if self._stale or slot not in self._slots:
                await self._refresh()
            host = asking or self._slots.get(slot)
            if host is None:
                raise exceptions.SlotNotCoveredError(f"no node serves slot {slot}")
            try:
                if sent is not None:
                    here, sent = sent, None
                    return [await self._lane(host).call(abandoned=abandoned, sent=here)]
                return await self._ask(host, commands, abandoned, asking=asking is not None)
            except exceptions.AskError as error:
                asking = self._follow(error, slot, host)
                last: Exception = error
            except exceptions.TryAgainError as error:
                self.redirections["TRYAGAIN"] += 1
                asking, last = None, error
                await asyncio.sleep(_PAUSE)
            except exceptions.ClusterDownError as error:
                self._stale, asking, last = True, None, error
                await asyncio.sleep(_PAUSE)
            except _GONE:
                self._stale = True
                raise
            if asyncio.get_running_loop().time() > until:
                raise last

    async def masters(self) -> Mapping[str, Lane]:
        if self._stale:
            await self._refresh()
        return {shown([host]): self._lane(host) for host in sorted(set(self._slots.values()))}

    async def connect(self) -> AbstractConnection:
        if self._stale:
            await self._refresh()
        last: Exception = exceptions.ClusterError("no node of the cluster is known")
        for host in random.sample(sorted(set(self._slots.values())), len(set(self._slots.values()))):
            try:
                return await opened(self._target.connection(host), self._patience)
            except DRIVER_ERRORS as error:
                last = error
        raise last

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        for lane in self._lanes.values():
            await lane.close()

    async def _ask(
        self, host: Host, commands: Sequence[Command], abandoned: Abandoned | None, *, asking: bool
    ) -> list[Reply]:
        lane = self._lane(host)
        if not asking and len(commands) == 1:
            return [await lane.call(*commands[0], abandoned=abandoned)]
        before = [("ASKING",)] if asking else []
        return _sound(await lane.call_all(*before, *commands, abandoned=abandoned))[len(before) :]

    def _follow(self, error: exceptions.AskError, slot: int, asked: Host) -> Host | None:
        """Where to go next: for good, or None after the map was put right."""
        host, _, port = str(error).rpartition(" ")[2].rpartition(":")
        # A node that does not know its own name says none: it means the one that was asked.
        there: Host = (host or asked[0], int(port))
        if isinstance(error, exceptions.MovedError):
            self.redirections["MOVED"] += 1
            self._slots[slot] = there
            return None
        self.redirections["ASK"] += 1
        return there

    def _lane(self, host: Host) -> Lane:
        if self._closed:
            raise exceptions.ConnectionError("this backend is closed")
        lane = self._lanes.get(host)
        if lane is None:

            async def open_node() -> AbstractConnection:
                return await opened(self._target.connection(host), self._patience)

            lane = self._lanes[host] = Lane(open_node, patience=self._patience, hot_wait=self._hot_wait)
        return lane

    async def _refresh(self) -> None:
        """Learn the map anew; any number of callers share one look."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._learn())
        refreshing = self._refreshing
        try:
            await asyncio.shield(refreshing)
        except asyncio.CancelledError:
            if refreshing.cancelled():
                raise exceptions.ConnectionError("this backend is closed") from None
            raise

    async def _learn(self) -> None:
        last: Exception = exceptions.ClusterError("no node of the cluster is known")
        for host in dict.fromkeys([*self._slots.values(), *self._target.hosts]):
            try:
                async with asyncio.timeout(self._patience / 2):
                    slots = await self._lane(host).call("CLUSTER", "SLOTS")
            except DRIVER_ERRORS as error:
                last = error
                continue
            self._slots = {slot: node for first, end, node in _ranges(slots, host) for slot in range(first, end + 1)}
            self._stale = False
            return
        raise last


def _ranges(reply: Reply, asked: Host) -> list[tuple[int, int, Host]]:
    """First and last slot of each range and its master."""
    ranges: list[tuple[int, int, Host]] = []
    for entry in reply if isinstance(reply, list) else []:
        match entry:
            case [int(first), int(last), [bytes() | None as name, int(port), *_], *_]:
                ranges.append((first, last, (name.decode() if name else asked[0], port)))
            case _:
                raise exceptions.InvalidResponse(f"the cluster describes itself as {entry!r}")
    return ranges


def _sound(replies: Sequence[Reply | Exception]) -> list[Reply]:
    found: list[Reply] = []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
        found.append(reply)
    return found
