"""The contract of a store as tests: C-K1 to C-K7. Used as :class:`~taskq.testing.broker_contract.BrokerContract` is."""

# ruff: noqa: S101 (a contract is made of asserts)

from collections.abc import AsyncGenerator
from uuid import uuid4

import anyio
import pytest

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable
from taskq.store import Store
from taskq.testing.deployment import LONG, SHORT, SOON, Deployment, part, wait_until


@pytest.mark.anyio
class StoreContract:
    """Every clause from C-K1 to C-K7."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def deployment(self) -> Deployment:
        """The one thing to override: where the backend under test lives."""
        raise NotImplementedError("override the fixture `deployment`")

    @pytest.fixture
    async def backend(self, deployment: Deployment, anyio_backend: str) -> AsyncGenerator[Backend]:  # noqa: ARG002
        async with deployment.open() as backend:
            yield backend

    @pytest.fixture
    def store(self, backend: Backend) -> Store:
        return part(backend.store, "store")

    @pytest.fixture
    async def rival(self, deployment: Deployment, backend: Backend) -> AsyncGenerator[Store]:  # noqa: ARG002
        """The store of a second connection, as of another process."""
        async with deployment.open() as other:
            yield part(other.store, "store")

    @pytest.fixture
    def key(self) -> str:
        """A key, and a prefix of keys, that no other test uses."""
        return f"k{uuid4().hex[:12]}"

    # C-K1: get

    async def test_c_k1_an_absent_key_holds_nothing(self, store: Store, key: str) -> None:
        entry = await store.get(key)
        assert (entry.value, entry.members) == (None, frozenset())

    async def test_c_k1_get_gives_value_members_and_a_rising_clock(self, store: Store, rival: Store, key: str) -> None:
        await store.swap(key, None, b"\x00value\xff")
        await store.add(key, ["a", "ä b\n", ""])
        first, second = await store.get(key), await rival.get(key)
        assert (second.value, second.members) == (b"\x00value\xff", frozenset({"a", "ä b\n", ""}))
        assert 0 < first.now <= second.now + 0.01

    async def test_c_k1_keys_are_apart(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"1")
        await store.add(key + ":x", ["m"])
        assert (await store.get(key)).members == frozenset()
        assert (await store.get(key + ":x")).value is None

    # C-K2: swap

    async def test_c_k2_swap_sets_only_over_the_expected_value(self, store: Store, rival: Store, key: str) -> None:
        assert not await store.swap(key, b"1", b"2")
        assert await store.swap(key, None, b"1")
        assert not await rival.swap(key, None, b"2")
        assert not await rival.swap(key, b"2", b"3")
        assert (await rival.get(key)).value == b"1"
        assert await rival.swap(key, b"1", b"2")
        assert (await store.get(key)).value == b"2"

    async def test_c_k2_an_empty_value_is_not_an_absent_one(self, store: Store, key: str) -> None:
        assert await store.swap(key, None, b"")
        assert not await store.swap(key, None, b"1")
        assert (await store.get(key)).value == b""
        assert await store.swap(key, b"", None)
        assert (await store.get(key)).value is None

    async def test_c_k2_of_racing_swaps_one_counts(self, store: Store, rival: Store, key: str) -> None:
        answers: list[bool] = []

        async def race(store: Store, value: bytes) -> None:
            answers.append(await store.swap(key, None, value))

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(race, (store, rival)[n % 2], str(n).encode())
        assert sorted(answers) == [False] * 19 + [True]

    async def test_c_k2_no_racing_increment_is_lost(self, store: Store, rival: Store, key: str) -> None:
        async def increment(store: Store) -> None:
            while True:
                value = (await store.get(key)).value
                if await store.swap(key, value, str(int(value or b"0") + 1).encode()):
                    return

        with anyio.fail_after(2 * SOON):
            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(increment, (store, rival)[n % 2])
        assert (await store.get(key)).value == b"20"

    async def test_c_k2_without_a_ttl_the_end_stays_as_it_was(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"1", ttl=SHORT)
        await store.swap(key, b"1", b"2")
        await store.swap(f"{key}-ever", None, b"1")
        await store.swap(f"{key}-ever", b"1", b"2")
        await _gone(store, key)
        assert (await store.get(f"{key}-ever")).value == b"2"

    async def test_c_k2_a_new_ttl_moves_the_end(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"1", ttl=2 * SHORT)
        assert await store.swap(key, b"1", b"1", ttl=LONG)
        await store.swap(f"{key}-cut", None, b"1", ttl=LONG)
        assert await store.swap(f"{key}-cut", b"1", b"1", ttl=2 * SHORT)
        await _gone(store, f"{key}-cut")
        assert (await store.get(key)).value == b"1"

    async def test_c_k2_a_refused_swap_moves_no_end(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"1", ttl=SHORT)
        assert not await store.swap(key, b"2", b"3", ttl=LONG)
        await _gone(store, key)

    async def test_c_k2_the_ttl_ends_the_whole_key(self, store: Store, key: str) -> None:
        await store.add(key, ["a", "b"])
        await store.swap(key, None, b"1", ttl=SHORT)
        await _gone(store, key)
        assert (await store.get(key)).members == frozenset()

    # C-K3: add

    async def test_c_k3_members_are_added_all_or_none(self, store: Store, rival: Store, key: str) -> None:
        assert await store.add(key, ["a", "b"], ceiling=3)
        assert not await rival.add(key, ["c", "d"], ceiling=3)
        assert (await rival.get(key)).members == frozenset("ab")
        assert await rival.add(key, ["c"], ceiling=3)
        assert (await store.get(key)).members == frozenset("abc")

    async def test_c_k3_members_that_are_there_take_no_second_place(self, store: Store, key: str) -> None:
        assert await store.add(key, ["a", "b", "b"], ceiling=2)
        assert await store.add(key, ["a", "b"], ceiling=2)
        assert not await store.add(key, ["b", "c"], ceiling=2)

    async def test_c_k3_without_a_ceiling_there_is_room(self, store: Store, key: str) -> None:
        members = [str(n) for n in range(2500)]
        assert await store.add(key, members)
        assert (await store.get(key)).members == frozenset(members)
        assert await store.discard(key, members[:2000]) == 500

    async def test_c_k3_no_race_passes_the_ceiling(self, store: Store, rival: Store, key: str) -> None:
        answers: list[bool] = []

        async def race(store: Store, n: int) -> None:
            answers.append(await store.add(key, [f"{n}"], ttl=LONG, ceiling=5))

        async with anyio.create_task_group() as tasks:
            for n in range(60):
                tasks.start_soon(race, (store, rival)[n % 2], n)
        assert answers.count(True) == 5
        assert len((await store.get(key)).members) == 5

    async def test_c_k3_places_that_come_and_go_keep_the_ceiling(self, store: Store, rival: Store, key: str) -> None:
        inside: set[str] = set()
        most = served = 0

        async def visit(store: Store, n: int) -> None:
            nonlocal most, served
            while not await store.add(key, [f"{n}"], ttl=LONG, ceiling=3):
                await anyio.lowlevel.checkpoint()
            inside.add(f"{n}")
            most = max(most, len(inside))
            await anyio.lowlevel.checkpoint()
            inside.discard(f"{n}")
            await store.discard(key, [f"{n}"])
            served += 1

        with anyio.fail_after(2 * SOON):
            async with anyio.create_task_group() as tasks:
                for n in range(12):
                    tasks.start_soon(visit, (store, rival)[n % 2], n)
        assert (served, most <= 3) == (12, True)

    # C-K4: discard

    async def test_c_k4_discard_says_how_many_are_left(self, store: Store, rival: Store, key: str) -> None:
        await store.add(key, list("abcde"))
        assert await rival.discard(key, ["a", "b", "unknown"]) == 3
        assert await store.discard(key, ["a"]) == 3
        assert await store.discard(key, list("cde")) == 0
        assert await store.discard(f"{key}-absent", ["a"]) == 0

    async def test_c_k4_a_discarded_member_cannot_come_back(self, store: Store, rival: Store, key: str) -> None:
        await store.swap(key, None, b"open")
        await store.add(key, ["a", "b"])
        await store.discard(key, ["a", "b"])
        assert await rival.add(key, ["a", "b", "c"])
        assert (await rival.get(key)).members == frozenset("c")
        many, short = [str(n) for n in range(1500)], [f"-{n}" for n in range(20)]
        await store.add(key, many)
        await store.add(key, short, ttl=60)
        for parts in (many[:20], many[10:40], [*many[40:], "unknown", *short]):
            await store.discard(key, parts)
        assert await rival.add(key, [*many, *short, "unknown"])
        assert (await rival.get(key)).members == {"c", "unknown"}

    async def test_c_k4_a_discarded_member_takes_no_place(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"open")
        await store.add(key, ["a"])
        await store.discard(key, ["a"])
        assert await store.add(key, ["a", "b"], ceiling=1)
        assert (await store.get(key)).members == frozenset("b")

    async def test_c_k4_a_member_that_was_never_there_may_come(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"open")
        await store.discard(key, ["a"])
        assert await store.add(key, ["a"])
        assert (await store.get(key)).members == frozenset("a")

    async def test_c_k4_of_racing_discards_one_sees_the_last_go(self, store: Store, rival: Store, key: str) -> None:
        await store.swap(key, None, b"sealed")
        await store.add(key, [str(n) for n in range(20)])
        left: list[int] = []

        async def race(store: Store, n: int) -> None:
            left.append(await store.discard(key, [str(n)]))

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(race, (store, rival)[n % 2], n)
        assert sorted(left) == list(range(20))

    async def test_c_k4_a_discarded_member_with_a_ttl_is_forgotten_with_it(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"open")
        await store.add(key, ["a"], ttl=2 * SHORT)
        await store.discard(key, ["a"])
        await store.add(key, ["a"])
        assert (await store.get(key)).members == frozenset()

        async def back() -> bool:
            await store.add(key, ["a"])
            return (await store.get(key)).members == frozenset("a")

        await wait_until(back)

    async def test_c_k4_a_key_that_holds_nothing_has_forgotten_all(self, store: Store, key: str) -> None:
        await store.add(key, ["a"])
        assert await store.discard(key, ["a"]) == 0
        assert await store.add(key, ["a"])
        assert (await store.get(key)).members == frozenset("a")

    # C-K5: members lapse

    async def test_c_k5_a_lapsed_member_frees_its_place(self, store: Store, rival: Store, key: str) -> None:
        assert await store.add(key, ["a"], ttl=SHORT, ceiling=1)

        async def free() -> bool:
            return await rival.add(key, ["b"], ceiling=1)

        await wait_until(free)
        assert (await store.get(key)).members == frozenset("b")

    async def test_c_k5_a_member_without_a_ttl_never_lapses(self, store: Store, key: str) -> None:
        await store.add(key, ["ever"])
        await store.add(key, ["a"], ttl=SHORT)
        await store.add(f"{key}-2", ["a"], ttl=2 * SHORT)
        await _gone(store, f"{key}-2")
        assert (await store.get(key)).members == frozenset({"ever"})

    async def test_c_k5_adding_a_member_again_renews_it(self, store: Store, key: str) -> None:
        await store.add(key, ["a", "b"], ttl=2 * SHORT)
        await store.add(key, ["a"], ttl=LONG)

        async def only_a() -> bool:
            return (await store.get(key)).members == frozenset("a")

        await wait_until(only_a)

    async def test_c_k5_a_refused_add_renews_nothing(self, store: Store, key: str) -> None:
        await store.add(key, ["a"], ttl=SHORT)
        assert not await store.add(key, ["a", "b"], ttl=LONG, ceiling=1)
        await _gone(store, key)

    async def test_c_k5_a_lapsed_member_may_come_back(self, store: Store, key: str) -> None:
        await store.swap(key, None, b"open")
        await store.add(key, ["a"], ttl=SHORT)

        async def lapsed() -> bool:
            return not (await store.get(key)).members

        await wait_until(lapsed)
        await store.add(key, ["a"])
        assert (await store.get(key)).members == frozenset("a")

    # C-K6: one key, one slot

    async def test_c_k6_any_text_is_a_key(self, store: Store, key: str) -> None:
        for odd in (f"{key} space", f"{key}{{x}}", f"{key}}}{{", f"{key}:ä/日本", f"{key}*?[a]", f"{key}'\"%s\\"):
            assert await store.swap(odd, None, odd.encode())
            assert await store.add(odd, [odd])
            entry = await store.get(odd)
            assert (entry.value, entry.members) == (odd.encode(), frozenset({odd}))
            assert await store.discard(odd, [odd]) == 0

    # C-K7: time and residue

    async def test_c_k7_nothing_outlives_its_time(self, store: Store, deployment: Deployment, key: str) -> None:
        before = set(await deployment.residue())
        await store.swap(f"{key}-value", None, b"1", ttl=SHORT)
        await store.swap(f"{key}-both", None, b"1", ttl=SHORT)
        await store.add(f"{key}-both", ["a"])
        await store.add(f"{key}-members", ["a", "b"], ttl=SHORT)
        await store.add(f"{key}-discarded", ["a"])
        await store.discard(f"{key}-discarded", ["a"])
        await store.add(f"{key}-mixed", ["a"])
        await store.add(f"{key}-mixed", ["b"], ttl=SHORT)
        await store.discard(f"{key}-mixed", ["a"])
        await store.swap(f"{key}-unset", None, b"1")
        await store.swap(f"{key}-unset", b"1", None)
        await store.swap(f"{key}-never", None, None, ttl=LONG)
        await store.add(f"{key}-refused", ["a"], ceiling=0)
        await store.get(f"{key}-looked-at")

        async def gone() -> bool:
            await store.get(key)
            return set(await deployment.residue()) <= before

        await wait_until(gone)

    async def test_c_k7_time_is_the_backends(self, store: Store, rival: Store, key: str) -> None:
        before = (await store.get(key)).now
        await store.swap(key, None, b"1", ttl=SHORT)
        await _gone(rival, key)
        assert (await rival.get(key)).now >= before + SHORT - 0.01

    async def test_c_k7_a_closed_connection_says_so_in_our_words(self, deployment: Deployment, key: str) -> None:
        async with deployment.open() as closed:
            store = part(closed.store, "store")
        calls = (lambda: store.get(key), lambda: store.swap(key, None, b"1"), lambda: store.add(key, ["a"]))
        for call in (*calls, lambda: store.discard(key, ["a"])):
            with pytest.raises(BrokerError) as caught:
                await call()
            assert isinstance(caught.value, BrokerUnavailable | BrokerRejected)


async def _gone(store: Store, key: str) -> None:
    """Return when the key holds nothing any more."""

    async def gone() -> bool:
        entry = await store.get(key)
        return entry.value is None and not entry.members

    await wait_until(gone)
