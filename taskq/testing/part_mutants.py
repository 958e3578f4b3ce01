"""Broken parts: the store, admin, results, hints and transactions, at least one mutant a clause."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from msgspec.structs import replace

from taskq.broker import Backend, Broker, DiscardAndSettle, QueueStats, Record, Revival
from taskq.errors import BrokerRejected
from taskq.job import JobRef, Settlement, State
from taskq.store import Entry, Store
from taskq.testing.deployment import LONG, part
from taskq.testing.mutant import Add, Change, DiscardMembers, Get, Mutant, Swap, Twisted, TwistedStore


def store_mutants() -> list[Mutant]:
    """Wrappers around the four verbs of any store."""
    return [
        *_store_mutant(
            "members are not shown", "test_c_k1_get_gives_value_members_and_a_rising_clock", get=_no_members
        ),
        *_store_mutant("the clock stands still", "test_c_k7_time_is_the_backends", get=_stopped),
        *_store_mutant("keys share their members", "test_c_k1_keys_are_apart", add=_one_key),
        *_store_mutant("swap compares nothing", "test_c_k2_swap_sets_only_over_the_expected_value", swap=_blind),
        *_store_mutant("swap compares, then sets", "test_c_k2_of_racing_swaps_one_counts", swap=_racing_swap),
        *_store_mutant("increments get lost", "test_c_k2_no_racing_increment_is_lost", swap=_racing_swap),
        *_store_mutant("empty is absent", "test_c_k2_an_empty_value_is_not_an_absent_one", swap=_empty_is_absent),
        *_store_mutant("every swap sets an end", "test_c_k2_without_a_ttl_the_end_stays_as_it_was", swap=_always_long),
        *_store_mutant("no swap moves the end", "test_c_k2_a_new_ttl_moves_the_end", swap=_only_first_ttl),
        *_store_mutant("a ttl ends nothing", "test_c_k2_the_ttl_ends_the_whole_key", swap=_no_ttl),
        *_store_mutant("the ceiling is off by one", "test_c_k3_members_are_added_all_or_none", add=_off_by_one),
        *_store_mutant("members are added one by one", "test_c_k3_members_are_added_all_or_none", add=_one_by_one),
        *_store_mutant("add counts, then adds", "test_c_k3_no_race_passes_the_ceiling", add=_racing_add),
        *_store_mutant("places race", "test_c_k3_places_that_come_and_go_keep_the_ceiling", add=_racing_add),
        *_store_mutant("discard counts wrongly", "test_c_k4_discard_says_how_many_are_left", discard=_miscount),
        *_store_mutant(
            "of racing discards none is the last",
            "test_c_k4_of_racing_discards_one_sees_the_last_go",
            discard=_miscount,
        ),
        Mutant(
            name="discard forgets its tombstone",
            test="test_c_k4_a_discarded_member_cannot_come_back",
            change=_forget_tombstones,
        ),
        *_store_mutant(
            "what was never there is kept out",
            "test_c_k4_a_member_that_was_never_there_may_come",
            discard=_add_then_discard,
        ),
        *_store_mutant("members never lapse", "test_c_k5_a_lapsed_member_frees_its_place", add=_no_member_ttl),
        *_store_mutant("every member lapses", "test_c_k5_a_member_without_a_ttl_never_lapses", add=_short_member_ttl),
        *_store_mutant("nothing renews a member", "test_c_k5_adding_a_member_again_renews_it", add=_never_renew),
        *_store_mutant("odd keys are refused", "test_c_k6_any_text_is_a_key", swap=_plain_keys),
        *_store_mutant("values stay behind", "test_c_k7_nothing_outlives_its_time", swap=_no_ttl),
        *_store_mutant("members stay behind", "test_c_k7_nothing_outlives_its_time", add=_no_member_ttl),
    ]


def capability_mutants() -> list[Mutant]:
    """Wrappers around the other optional parts."""
    changes: list[tuple[str, str, Change]] = [
        ("no outcome is waited for", "test_c_s2_waiting_for_an_outcome_ends_with_the_job", _impatient_results),
        ("a revived job is not ready", "test_c_s4_a_revived_job_starts_anew", _admin(revive=_revive_nothing)),
        (
            "revive never conflicts",
            "test_c_s4_reviving_answers_a_conflict_when_the_key_is_held",
            _admin(revive=_revive_nothing),
        ),
        ("purge takes anything", "test_c_s4_purging_removes_dead_letters_alone", _admin(purge=_purge_true)),
        ("cancel does nothing", "test_c_x2_a_cancelled_waiting_job_is_due_and_says_so", _admin(cancel=_cancel_nothing)),
        ("cancel finds dead letters", "test_c_x2_a_dead_letter_cannot_be_cancelled", _admin(cancel=_cancel_nothing)),
        (
            "a cancelled member needs a place",
            "test_c_f7_a_cancelled_member_needs_no_place",
            _admin(cancel=_cancel_nothing),
        ),
        ("ready is counted as later", "test_admin_counts_the_jobs_of_each_state", _miscounting_admin),
        ("what lapses is not counted", "test_c_s4_a_dead_letter_that_lapsed_is_counted", _forgetting_admin),
        ("a page begins at its mark", "test_admin_lists_jobs_by_rising_id_in_pages", _repeating_admin),
        ("hints go nowhere", "test_hints_reach_every_listener_of_their_channel", _mute_hints),
        ("hints wait for their listeners", "test_hints_do_not_wait_for_a_listener", _waiting_hints),
        ("a joined broker commits by itself", "test_transactions_that_raise_leave_no_trace", _unjoined),
        ("what is not committed is seen", "test_transactions_show_nothing_before_the_commit", _unjoined),
        ("a raise commits", "test_transactions_that_raise_leave_no_trace", _commit_always),
        ("a commit does nothing", "test_transactions_carry_out_all_at_the_commit", _roll_back_always),
        ("any object is a connection", "test_transactions_join_only_their_own_kind", _unjoined),
        ("who leaves is not settled", "test_leaving_settles", _leaving_only),
        ("who leaves last is settled", "test_leaving_last_settles_nothing", _settling_the_last),
        ("who leaves again is the last", "test_leaving_again_is_as_settling_again", _settling_before),
        ("who is late does not leave", "test_leaving_counts_though_the_lease_is_lost", _settling_before),
        ("of two none is the last", "test_leaving_of_racing_halves_one_is_last", _settling_the_last),
    ]
    return [Mutant(name=name, test=test, change=change) for name, test, change in changes]


# Stores


def _store_mutant(
    name: str,
    test: str,
    *,
    get: Get | None = None,
    swap: Swap | None = None,
    add: Add | None = None,
    discard: DiscardMembers | None = None,
) -> list[Mutant]:
    def change(backend: Backend) -> Backend:
        real = part(backend.store, "store")
        return replace(backend, store=TwistedStore(real, get=get, swap=swap, add=add, discard=discard))

    return [Mutant(name=name, test=test, change=change)]


async def _no_members(real: Store, key: str) -> Entry:
    return replace(await real.get(key), members=frozenset())


async def _stopped(real: Store, key: str) -> Entry:
    return replace(await real.get(key), now=1.0)


async def _one_key(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
    return await real.add(key.partition(":")[0], members, ttl=ttl, ceiling=ceiling)


async def _blind(real: Store, key: str, _: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    return await real.swap(key, (await real.get(key)).value, new, ttl=ttl)


async def _racing_swap(real: Store, key: str, old: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    if (await real.get(key)).value != old:
        return False
    await anyio.sleep(0.01)
    while not await real.swap(key, (await real.get(key)).value, new, ttl=ttl):
        pass
    return True


async def _empty_is_absent(real: Store, key: str, old: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    return await real.swap(key, old or None, new or None, ttl=ttl)


async def _always_long(real: Store, key: str, old: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    return await real.swap(key, old, new, ttl=LONG if ttl is None else ttl)


async def _only_first_ttl(real: Store, key: str, old: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    return await real.swap(key, old, new, ttl=ttl if old is None else None)


async def _no_ttl(real: Store, key: str, old: bytes | None, new: bytes | None, _: float | None) -> bool:
    return await real.swap(key, old, new)


async def _off_by_one(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
    return await real.add(key, members, ttl=ttl, ceiling=None if ceiling is None else ceiling + 1)


async def _one_by_one(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
    return all([await real.add(key, [member], ttl=ttl, ceiling=ceiling) for member in members])


async def _racing_add(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
    if ceiling is not None and len((await real.get(key)).members.union(members)) > ceiling:
        return False
    await anyio.sleep(0.01)
    return await real.add(key, members, ttl=ttl)


async def _miscount(real: Store, key: str, members: Sequence[str]) -> int:
    return await real.discard(key, members) + 1


def _forget_tombstones(backend: Backend) -> Backend:
    """A member that comes again is stored under a name that was never discarded."""
    again: dict[tuple[str, str], str] = {}

    async def add(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
        aliases = [again.setdefault((key, member), f"{member}\x1fagain") for member in members]
        return await real.add(key, aliases, ttl=ttl, ceiling=ceiling)

    async def get(real: Store, key: str) -> Entry:
        entry = await real.get(key)
        return replace(entry, members=frozenset(member.partition("\x1f")[0] for member in entry.members))

    return replace(backend, store=TwistedStore(part(backend.store, "store"), get=get, add=add))


async def _add_then_discard(real: Store, key: str, members: Sequence[str]) -> int:
    await real.add(key, members)
    return await real.discard(key, members)


async def _no_member_ttl(real: Store, key: str, members: Sequence[str], _: float | None, ceiling: int | None) -> bool:
    return await real.add(key, members, ceiling=ceiling)


async def _short_member_ttl(
    real: Store, key: str, members: Sequence[str], _: float | None, ceiling: int | None
) -> bool:
    return await real.add(key, members, ttl=0.1, ceiling=ceiling)


async def _never_renew(real: Store, key: str, members: Sequence[str], ttl: float | None, ceiling: int | None) -> bool:
    there = (await real.get(key)).members
    return await real.add(key, [member for member in members if member not in there], ttl=ttl, ceiling=ceiling)


async def _plain_keys(real: Store, key: str, old: bytes | None, new: bytes | None, ttl: float | None) -> bool:
    if not key.isalnum():
        raise BrokerRejected(f"{key!r} is no key")
    return await real.swap(key, old, new, ttl=ttl)


# Results and admin


def _impatient_results(backend: Backend) -> Backend:
    results = part(backend.results, "results")

    async def outcome(ref: JobRef, *, wait: float) -> bytes | None:  # noqa: ARG001 waiting is what it does not do
        return await results.outcome(ref, wait=0)

    return replace(backend, results=Twisted(results, outcome=outcome))


def _admin(**methods: Callable[[Sequence[JobRef]], object]) -> Change:
    return lambda backend: replace(backend, admin=Twisted(part(backend.admin, "admin"), **methods))


async def _revive_nothing(refs: Sequence[JobRef]) -> list[Revival]:
    return ["revived" for _ in refs]


async def _purge_true(refs: Sequence[JobRef]) -> list[bool]:
    return [True for _ in refs]


async def _cancel_nothing(refs: Sequence[JobRef]) -> list[bool]:
    return [True for _ in refs]


def _miscounting_admin(backend: Backend) -> Backend:
    admin = part(backend.admin, "admin")

    async def stats(queues: Sequence[str] = ()) -> list[QueueStats]:
        return [replace(s, later=s.later + s.ready, ready=0) for s in await admin.stats(queues)]

    return replace(backend, admin=Twisted(admin, stats=stats))


def _forgetting_admin(backend: Backend) -> Backend:
    admin = part(backend.admin, "admin")

    async def stats(queues: Sequence[str] = ()) -> list[QueueStats]:
        return [replace(one, lapsed=0) for one in await admin.stats(queues)]

    return replace(backend, admin=Twisted(admin, stats=stats))


def _repeating_admin(backend: Backend) -> Backend:
    admin = part(backend.admin, "admin")

    async def list_jobs(queue: str, state: State, *, after: str | None, limit: int) -> Sequence[Record]:
        return await admin.list_jobs(queue, state, after=after[:-1] if after else None, limit=limit)

    return replace(backend, admin=Twisted(admin, list_jobs=list_jobs))


# Hints


def _mute_hints(backend: Backend) -> Backend:
    async def publish(channel: str, data: str) -> None:
        """Tell nobody."""

    return replace(backend, hints=Twisted(part(backend.hints, "hints"), publish=publish))


def _waiting_hints(backend: Backend) -> Backend:
    async def publish(channel: str, data: str) -> None:  # noqa: ARG001 it never gets that far
        await anyio.sleep(LONG)

    return replace(backend, hints=Twisted(part(backend.hints, "hints"), publish=publish))


# Transactions


def _unjoined(backend: Backend) -> Backend:
    def join(connection: object) -> Broker:  # noqa: ARG001 which is what is wrong with it
        return backend.broker

    return replace(backend, transactions=Twisted(part(backend.transactions, "transactions"), join=join))


class _Swallowed(Exception):
    """Ends a transaction without its caller noticing."""


def _commit_always(backend: Backend) -> Backend:
    transactions = part(backend.transactions, "transactions")

    @asynccontextmanager
    async def begin() -> AsyncGenerator[object]:
        raised: list[Exception] = []
        async with transactions.begin() as connection:
            try:
                yield connection
            except Exception as error:  # noqa: BLE001 whatever it is
                raised.append(error)
        if raised:
            raise raised[0]

    return replace(backend, transactions=Twisted(transactions, begin=begin))


def _roll_back_always(backend: Backend) -> Backend:
    transactions = part(backend.transactions, "transactions")

    @asynccontextmanager
    async def begin() -> AsyncGenerator[object]:
        try:
            async with transactions.begin() as connection:
                yield connection
                raise _Swallowed  # noqa: TRY301 it has to pass through the transaction
        except _Swallowed:
            return

    return replace(backend, transactions=Twisted(transactions, begin=begin))


# Leaving


def _leaving(backend: Backend, discard_and_settle: DiscardAndSettle) -> Backend:
    part(backend.discard_and_settle, "discarding and settling as one")
    return replace(backend, discard_and_settle=discard_and_settle)


def _leaving_only(backend: Backend) -> Backend:
    store = part(backend.store, "store")

    async def leave(key: str, members: Sequence[str], settlements: Sequence[Settlement]) -> Sequence[bool] | None:
        return [True] * len(settlements) if await store.discard(key, members) else None

    return _leaving(backend, leave)


def _settling_the_last(backend: Backend) -> Backend:
    store = part(backend.store, "store")

    async def leave(key: str, members: Sequence[str], settlements: Sequence[Settlement]) -> Sequence[bool] | None:
        settled = await backend.broker.settle(settlements)
        return settled if await store.discard(key, members) else None

    return _leaving(backend, leave)


def _settling_before(backend: Backend) -> Backend:
    store = part(backend.store, "store")

    async def leave(key: str, members: Sequence[str], settlements: Sequence[Settlement]) -> Sequence[bool] | None:
        settled = await backend.broker.settle(settlements)
        return settled if all(settled) and await store.discard(key, members) else None

    return _leaving(backend, leave)
