"""What was to be collected and waited in a spool: it becomes sets of its own.

Nobody else knows of such a set before its job is enqueued, and that job takes the items' place in the spool before it
is: so a handover that dies is begun again, and adds nothing twice. A second job of a set finds nothing left.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from taskq.collect import COLLECT, ID, Kept, read_claims
from taskq.job import Job
from taskq.store import Store


async def gather(store: Store, key: str, items: Mapping[str, bytes]) -> tuple[int, Job | None]:
    """Make a set of what waited in the spool under a key: of how many, and its job; None: all are in other sets.

    It may be done again, with more items behind these, until its job is enqueued. ``wait`` counts from when the first
    of them was kept.
    """
    ids, every = list(items), [msgspec.msgpack.decode(data, type=Kept) for data in items.values()]
    first, size = every[0], every[0].size
    members: list[str] = []
    tried: dict[str, list[str]] = {}
    for one, kept in zip(ids[:size], every[:size], strict=True):
        member = one + kept.body.decode()
        members.append(member)
        if kept.tried is not None:
            tried.setdefault(kept.tried, []).append(member)
    elsewhere = {member for name, doubtful in tried.items() for member in await _left(store, name, doubtful)}
    mine = [member for member in members if member not in elsewhere]
    if not mine:
        return len(members), None
    name = f"collect:{key}:{ids[0]}"
    await store.add(name, mine)
    headers = {**first.window.headers, COLLECT: name}
    delay = first.wait if len(members) < size else 0.0
    return len(members), replace(first.window, id=ids[0], headers=headers, delay=delay)


async def _left(store: Store, name: str, members: Sequence[str]) -> Sequence[str]:
    """Those of a set that a job of it has claimed, which are left to it; the others are in it no longer."""
    entry = await store.get(name)
    claimed = {member for claim in read_claims(entry.value).values() for member in claim}
    taken = [member for member in members if member in entry.members and member[:ID] in claimed]
    await store.discard(name, [member for member in members if member not in taken])
    return taken
