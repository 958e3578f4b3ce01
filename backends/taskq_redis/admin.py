"""What an operator may see and do. Looking changes nothing, and holds no server up: large queues are read in parts."""

from collections.abc import Sequence
from heapq import nsmallest
from itertools import chain

from taskq.broker import QueueStats, Record, Revival
from taskq.errors import BrokerRejected
from taskq.job import JobRef, State
from taskq_redis.extender import each
from taskq_redis.keys import encoded
from taskq_redis.rows import Decoders, record_of
from taskq_redis.scripts import Script
from taskq_redis.tools import Tools
from taskq_redis.wire import Reply

_CHUNK = 1000
_RANK = 26
_PLACES: dict[State, Sequence[str]] = {
    "later": ["later"],
    "ready": ["ready", "parked", "later", "leased"],
    "leased": ["leased"],
    "dead": ["dead"],
}
"""Where jobs of a state may stand: what has become due lately is still where it waited."""

_REVIVALS: dict[bytes, Revival] = {b"revived": "revived", b"conflict": "conflict", b"unknown": "unknown"}


class RedisAdmin:
    """The admin part."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._decode = Decoders()

    async def stats(self, queues: Sequence[str] = ()) -> list[QueueStats]:
        """Without names it costs a look at every key of the servers."""
        found = [await self._stats(queue) for queue in sorted(set(queues) or await self._queues())]
        return [stats for stats in found if queues or stats.later or stats.ready or stats.leased or stats.dead]

    async def lookup(self, ref: JobRef) -> Record | None:
        return next(iter(await self._look(ref.queue, [ref.id])), None)

    async def find(self, id: str) -> Record | None:
        """Costs a look at every key of the servers."""
        for queue in await self._queues():
            for record in await self._look(queue, [id]):
                return record
        return None

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> list[Record]:
        """Costs a look at each job that may be in the state asked for."""
        ids: set[str] = set()
        for place in _PLACES[state]:
            for partition in self._tools.keys.partitions(queue):
                ids |= {name for name in await self._ids(partition, place) if after is None or name > after}
        records: list[Record] = []
        while len(records) < limit and ids:
            part = nsmallest(min(limit, _CHUNK), ids)
            ids.difference_update(part)
            records += [record for record in await self._look(queue, part) if record.state == state]
        return records[:limit]

    async def cancel(self, refs: Sequence[JobRef]) -> list[bool]:
        return [answer == 1 for answer in await self._each(self._tools.scripts.cancel, refs)]

    async def revive(self, refs: Sequence[JobRef]) -> list[Revival]:
        answers = await self._each(self._tools.scripts.revive, refs)
        return [_REVIVALS[answer] if isinstance(answer, bytes) else "unknown" for answer in answers]

    async def purge(self, refs: Sequence[JobRef]) -> list[bool]:
        return [answer == 1 for answer in await self._each(self._tools.scripts.purge, refs)]

    async def _each(self, script: Script, refs: Sequence[JobRef]) -> list[Reply]:
        """What a script answers for each job, whatever queues they are of."""
        answers: list[Reply] = [None] * len(refs)
        wanted: dict[str, list[int]] = {}
        for at, ref in enumerate(refs):
            for partition in self._tools.keys.partitions(ref.queue):
                wanted.setdefault(partition, []).append(at)
        for partition, found in wanted.items():
            for first in range(0, len(found), _CHUNK):
                part = found[first : first + _CHUNK]
                keys, ids = self._tools.keys.queue(partition), [encoded(refs[at].id) for at in part]
                for at, answer in zip(part, _list(await self._tools.client.run(script, keys, *ids)), strict=True):
                    # The partitions that do not hold it have nothing to say of it.
                    answers[at] = answers[at] if answer in (0, b"unknown") else answer
        return answers

    async def _stats(self, queue: str) -> QueueStats:
        partitions = self._tools.keys.partitions(queue)
        counts = await each([self._count(partition) for partition in partitions])
        later, ready, leased, dead = (sum(count[at] for count in counts) for at in range(4))
        oldest = max(0, *(count[4] for count in counts)) / 1e6
        lapsed = sum(count[5] for count in counts)
        return QueueStats(queue=queue, later=later, ready=ready, leased=leased, dead=dead, oldest=oldest, lapsed=lapsed)

    async def _count(self, partition: str) -> tuple[int, int, int, int, int, int]:
        match await self._tools.client.run(self._tools.scripts.stats, self._tools.keys.queue(partition)):
            case [int(later), int(ready), int(leased), int(dead), int(waited), int(lapsed)]:
                return later, ready, leased, dead, waited, lapsed
            case reply:
                raise BrokerRejected(f"a script answered {reply!r}")

    async def _look(self, queue: str, ids: Sequence[str]) -> list[Record]:
        """The jobs of these ids that are there, by rising id where these do."""
        partitions = self._tools.keys.partitions(queue)
        found = await each([self._look_into(partition, queue, ids) for partition in partitions])
        order = {name: at for at, name in enumerate(ids)}
        return sorted(chain.from_iterable(found), key=lambda record: order[record.job.id])

    async def _look_into(self, partition: str, queue: str, ids: Sequence[str]) -> list[Record]:
        keys = self._tools.keys.queue(partition)
        reply = await self._tools.client.run(self._tools.scripts.look, keys, *map(encoded, ids))
        match reply:
            case [int(now), [*found]]:
                return [record_of(queue, _list(one), now, self._decode) for one in found]
            case _:
                raise BrokerRejected(f"a script answered {reply!r}")

    async def _queues(self) -> list[str]:
        rows = await self._tools.client.scan(self._tools.keys.rows)
        return sorted({self._tools.keys.queue_of(row) for row in rows})

    async def _ids(self, partition: str, place: str) -> set[str]:
        """The ids in one of a partition's sorted sets, whose members may begin with more than the id."""
        key, cursor = self._tools.keys.one(partition, place), b"0"
        found: set[str] = set()
        while True:
            reply = _list(await self._tools.client.call(key, b"ZSCAN", key, cursor, b"COUNT", _CHUNK))
            members = [member for member in _list(reply[1])[::2] if isinstance(member, bytes)]
            found |= {member[_prefix(place, member) :].decode() for member in members}
            cursor = reply[0] if isinstance(reply[0], bytes) else b"0"
            if cursor == b"0":
                return found


def _prefix(place: str, member: bytes) -> int:
    if place == "parked":
        return 4 + int.from_bytes(member[:4]) + 8 + _RANK
    return _RANK if place == "ready" else 0


def _list(reply: Reply) -> list[Reply]:
    if isinstance(reply, list):
        return reply
    raise BrokerRejected(f"a script answered {reply!r}")
