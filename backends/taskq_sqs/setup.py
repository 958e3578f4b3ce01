"""The queues as they are declared: what is missing or differs, and making it so."""

from collections.abc import Mapping, Sequence

import msgspec

from taskq_sqs.names import FIFO
from taskq_sqs.queues import Queues, declared


class SqsSetup:
    """Makes queues and sets their attributes, and removes nothing."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def plan(self, queues: Sequence[str]) -> list[str]:
        return [line for queue in queues for line in await self._go_through(queue, apply=False)]

    async def apply(self, queues: Sequence[str]) -> list[str]:
        return [line for queue in queues for line in await self._go_through(queue, apply=True)]

    async def _go_through(self, queue: str, *, apply: bool) -> list[str]:
        names, steps = self._queues.names, list[str]()
        dead: Mapping[str, str] | None = None
        for name in names.all_of(queue):
            wanted = declared(name, dead)
            url = await self._queues.find(name)
            found: Mapping[str, str] = await self._queues.attributes(url) if url is not None else {}
            differing = {key: value for key, value in wanted.items() if not _same(value, found.get(key))}
            if url is None:
                steps.append(f"create {name}: {_listed(wanted)}")
                if apply:
                    found = await self._queues.attributes(await self._queues.make(name, wanted))
            elif differing:
                steps.append(f"change {name}: {_listed(differing)}")
                if apply:
                    await self._queues.change(url, differing)
            if name == names.dead(queue):
                dead = found
        return steps


def _same(wanted: str, found: str | None) -> bool:
    if found is None or not wanted.startswith("{"):
        return wanted == found
    one, other = (msgspec.json.decode(text, type=dict[str, str | int]) for text in (wanted, found))
    # The service answers numbers as it likes.
    return {key: str(value) for key, value in one.items()} == {key: str(value) for key, value in other.items()}


def _listed(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in attributes.items() if key != "FifoQueue") or FIFO
