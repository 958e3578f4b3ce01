"""The store: each key a hash and two sorted sets under one tag, each call one script."""

from collections.abc import Sequence

from msgspec import msgpack

from taskq.errors import BrokerRejected
from taskq.store import Entry
from taskq_redis.rows import microseconds
from taskq_redis.scripts import Script
from taskq_redis.tools import Tools
from taskq_redis.wire import Argument, Reply


class RedisStore:
    """Atomic because a script is."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def get(self, key: str) -> Entry:
        match await self._run(self._tools.scripts.store_get, key):
            case [int(now), bytes() | None as value, [*members]]:
                names = (member.decode() for member in members if isinstance(member, bytes))
                return Entry(value, frozenset(names), now / 1e6)
            case reply:
                raise BrokerRejected(f"a script answered {reply!r}")

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        expected = (b"lacks", b"") if old is None else (b"has", old)
        wanted = (b"unset", b"") if new is None else (b"set", new)
        return await self._run(self._tools.scripts.store_swap, key, _ttl(ttl), *expected, *wanted) == 1

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        most = b"" if ceiling is None else ceiling
        return await self._run(self._tools.scripts.store_add, key, _ttl(ttl), most, packed_members(members)) == 1

    async def discard(self, key: str, members: Sequence[str]) -> int:
        left = await self._run(self._tools.scripts.store_discard, key, packed_members(members))
        if isinstance(left, int):
            return left
        raise BrokerRejected(f"a script answered {left!r}")

    async def _run(self, script: Script, key: str, *arguments: Argument) -> Reply:
        return await self._tools.client.run(script, self._tools.keys.entry(key), *arguments)


def _ttl(ttl: float | None) -> Argument:
    return b"" if ttl is None else microseconds(ttl)


def packed_members(members: Sequence[str]) -> bytes:
    try:
        return msgpack.encode(members)
    except UnicodeEncodeError as error:
        raise BrokerRejected(f"{error.object!r} is not valid Unicode and cannot be stored") from error
