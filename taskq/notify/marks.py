"""Which tasks were told of and have not recovered since: one key of the Store, read seldom and written more seldom."""

from collections.abc import Mapping

import msgspec

from taskq.notify.notices import Mark
from taskq.store import Store

MARKS = "taskq:told"
KEPT = 30 * 86_400.0
"""Seconds: the code of a task that fails may be gone for good."""


async def read_marks(store: Store) -> Mapping[str, Mark]:
    """The marks, by task."""
    return _read((await store.get(MARKS)).value)


async def write_mark(store: Store, task: str, mark: Mark | None) -> None:
    """Remember, or forget, that a task was told of."""
    while True:
        value = (await store.get(MARKS)).value
        old = _read(value)
        new = {**old, task: mark} if mark is not None else {name: kept for name, kept in old.items() if name != task}
        if new == old or await store.swap(MARKS, value, msgspec.json.encode(new) if new else None, ttl=KEPT):
            return


def _read(value: bytes | None) -> Mapping[str, Mark]:
    if value is None:
        return {}
    try:
        return msgspec.json.decode(value, type=dict[str, Mark])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Of a version that is newer, or of nobody: what was told is forgotten.
        return {}
