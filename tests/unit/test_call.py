"""Ids."""

import time
from uuid import RFC_4122, UUID

from taskq.call import new_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        made = new_id()
        uuid = UUID(hex=made)
        assert (len(made), uuid.version, uuid.variant) == (32, 7, RFC_4122)


def test_an_id_begins_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    made = int(new_id()[:12], 16)
    after = time.time_ns() // 1_000_000

    assert before <= made <= after


def test_later_milliseconds_sort_behind_earlier_ones() -> None:
    ids = [new_id() for _ in range(20_000)]
    moments = [made[:12] for made in ids]

    assert len(set(ids)) == len(ids)
    assert moments == sorted(moments)
