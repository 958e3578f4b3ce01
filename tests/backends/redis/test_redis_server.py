"""One server and what can happen to it."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from taskq_redis import connect

from taskq.broker import Backend
from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq.job import Ack, DeadLetter, Job, Lease, Settlement
from taskq.testing.deployment import LONG, SOON, a_job, ack, add, names, nothing, take, take_one, wait_until
from tests.backends.redis.deployment import command, keys
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.proxy import proxied

PATIENT = 2 * SOON
"""Seconds of a backend that waits for a disk, however slow that is."""

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(server: Process, **options: object) -> AsyncGenerator[Backend]:
    async with connect(server.url, **options) as backend:
        yield backend


async def know_scripts(backend: Backend) -> None:
    """Have the server know the scripts that it is sent next, so that nothing is sent twice."""
    await add(backend.broker, a_job("warm"))
    await add(backend.broker, a_job("warm", "b"), a_job("warm", "c"))
    await ack(backend.broker, *await take(backend.broker, "warm", 3))


def sent(server: Process) -> int:
    """How many commands clients have sent since the last reset."""
    stats = command(server, "INFO", "commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "ping", "subscribe"))


async def test_scripts_that_are_forgotten_are_sent_again(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        done: list[str] = []

        async def work() -> None:
            while len(done) < 300:
                got = await backend.broker.fetch(["q"], 10, lease=LONG, wait=1)
                assert all(await backend.broker.settle([Ack(delivery.receipt) for delivery in got]))
                done.extend(names(got))

        with anyio.fail_after(2 * SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                for n in range(30):
                    await add(backend.broker, *(a_job("q", f"{n}-{m}") for m in range(10)))
                    command(own_redis, "SCRIPT", "FLUSH")
        assert Counter(done) == Counter(f"{n}-{m}" for n in range(30) for m in range(10))


async def test_a_killed_server_loses_nothing_it_had_answered_and_is_found_again(own_redis: Process) -> None:
    answered: set[str] = set()
    async with opened(own_redis) as backend:
        assert backend.broker.traits.durability == "disk"

        async def produce(part: int) -> None:
            for n in range(10_000):
                job = a_job("q", f"{part}-{n}")
                try:
                    await backend.broker.enqueue([job])
                except BrokerUnavailable:
                    return
                answered.add(job.id)

        async with anyio.create_task_group() as tasks:
            for part in range(10):
                tasks.start_soon(produce, part)
            while len(answered) < 500:  # noqa: ASYNC110 the producers cannot know when it is enough
                await anyio.sleep(0.01)
            own_redis.kill()
        own_redis.start()

        async def back() -> bool:
            try:
                await backend.broker.enqueue([a_job("q", "back")])
            except BrokerUnavailable:
                return False
            return True

        await wait_until(back)
        found: set[str] = set()
        while got := await backend.broker.fetch(["q"], 1000, lease=LONG, wait=0):
            found |= {delivery.job.id for delivery in got}
        assert answered <= found


async def test_a_waiting_fetch_outlives_a_restart_of_the_server(own_redis: Process) -> None:
    async with opened(own_redis) as backend, opened(own_redis) as other:
        got: list[str] = []

        async def wait() -> None:
            while not got:
                try:
                    got.extend(names(await backend.broker.fetch(["q"], 1, lease=LONG, wait=2 * SOON)))
                except BrokerUnavailable:
                    await anyio.sleep(0.01)

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                own_redis.kill()
                own_redis.start()

                async def added() -> bool:
                    try:
                        return bool(await other.broker.enqueue([a_job("q")]))
                    except BrokerUnavailable:
                        return False

                await wait_until(added)
        assert got == ["a"]


async def test_a_full_server_refuses_jobs_and_still_settles_and_extends(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        jobs = [Job(id=f"{n}", task="t", body=b"x" * 100_000, queue="q") for n in range(50)]
        await backend.broker.enqueue(jobs)
        deliveries = await take(backend.broker, "q", 50)
        command(own_redis, "CONFIG", "SET", "maxmemory", "3mb")
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await backend.broker.enqueue([a_job("q", "more")])
        receipts = [delivery.receipt for delivery in deliveries]
        assert list(await backend.broker.extend(receipts, LONG)) == [Lease.HELD] * 50
        assert all(await backend.broker.settle([Ack(receipt, b"done", LONG) for receipt in receipts]))
        await add(backend.broker, a_job("q", "more"))


async def test_a_reply_that_was_lost_is_an_error_and_repeating_adds_nothing_twice(own_redis: Process) -> None:
    async with (
        proxied(own_redis.port) as (proxy, port),
        connect(f"redis://127.0.0.1:{port}") as backend,
        AsyncExitStack() as stack,
    ):
        await know_scripts(backend)
        assert backend.hints is not None
        # The connection that hears is open by then, and what is cut is the answer.
        await stack.enter_async_context(backend.hints.subscribe(["news"]))
        jobs = [a_job("q", str(n)) for n in range(20)]
        proxy.cutting = True
        with pytest.raises(BrokerUnavailable):
            await backend.broker.enqueue(jobs)
        assert not any(answer.added for answer in await backend.broker.enqueue(jobs))
        deliveries = await take(backend.broker, "q", 20)
        assert len({delivery.job.id for delivery in deliveries}) == 20
        proxy.cutting = True
        with pytest.raises(BrokerUnavailable):
            await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries])
        assert not any(await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries]))
        assert keys(own_redis) == []


async def test_a_pulled_cable_is_noticed(own_redis: Process) -> None:
    async with proxied(own_redis.port) as (proxy, port), connect(f"redis://127.0.0.1:{port}", patience=0.3) as backend:
        await add(backend.broker, a_job("q"))
        proxy.deaf = frozenset({True, False})
        with anyio.fail_after(SOON), pytest.raises(BrokerUnavailable):
            await backend.broker.fetch(["q"], 1, lease=LONG, wait=0)
        proxy.deaf = frozenset()
        await ack(backend.broker, await take_one(backend.broker, "q"))


async def test_a_job_and_its_results_leave_nothing_behind(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        for n in range(20):
            await add(backend.broker, *(a_job("q", f"{n}-{m}", priority=m, group=f"g{m % 3}") for m in range(30)))
        done = 0
        while done < 600:
            got = await backend.broker.fetch(["q"], 100, lease=LONG, wait=1)
            await backend.broker.settle([Ack(delivery.receipt, b"done", 0.05) for delivery in got])
            done += len(got)

        async def gone() -> bool:
            return not keys(own_redis)

        await wait_until(gone)


async def test_an_ended_id_is_refused_for_the_dedup_window_and_then_forgotten(own_redis: Process) -> None:
    async with opened(own_redis, dedup_window=0.5) as backend:
        assert backend.broker.traits.dedup_window == 0.5
        await add(backend.broker, a_job("q"))
        await ack(backend.broker, await take_one(backend.broker, "q"))
        (refused,) = await backend.broker.enqueue([a_job("q")])
        assert (refused.added, refused.error) == (False, None)

        async def gone() -> bool:
            return not keys(own_redis)

        await wait_until(gone)
        await add(backend.broker, a_job("q"))


async def test_an_idle_fetch_sends_at_most_a_command_a_second(own_redis: Process) -> None:
    async def listens() -> bool:
        return bool(command(own_redis, "PUBSUB", "CHANNELS"))

    async with opened(own_redis) as backend, opened(own_redis) as other:
        await know_scripts(backend)
        await wait_until(listens)
        command(own_redis, "CONFIG", "RESETSTAT")
        for _ in range(5):
            assert not await backend.broker.fetch(["q", "r", "s"], 1, lease=LONG, wait=1.0)
        # The first looks are in it.
        assert sent(own_redis) <= 5
        before = sent(own_redis)
        got: list[str] = []

        async def wait() -> None:
            got.extend(names(await backend.broker.fetch(["q", "r", "s"], 1, lease=LONG, wait=2 * SOON)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await add(other.broker, a_job("r"))
        assert got == ["a"]
        assert sent(own_redis) - before <= 4


async def test_one_job_wakes_one_of_many_that_wait(own_redis: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody looks by himself meanwhile.
    monkeypatch.setattr("taskq_redis.waiting.LOOK", 3600.0)
    async with opened(own_redis) as backend, opened(own_redis) as other:
        await know_scripts(backend)
        done = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                got = await backend.broker.fetch(["q"], 1, lease=LONG, wait=SOON)
                await backend.broker.settle([Ack(delivery.receipt) for delivery in got])
                if got:
                    done.set()

            for _ in range(20):
                tasks.start_soon(wait)

            # Until all of them wait on the server.
            async def all_wait() -> bool:
                return bool(command(own_redis, "ZCARD", "{taskq:q}:waiting") == 20)

            await wait_until(all_wait)
            await anyio.wait_all_tasks_blocked()
            command(own_redis, "CONFIG", "RESETSTAT")
            await add(other.broker, a_job("q"))
            await done.wait()
            await anyio.wait_all_tasks_blocked()
            # The enqueue, one claim, one settle; and one more claim of the fetch that keeps the time from then on.
            assert sent(own_redis) <= 5
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("ending", ["cancelled", "roused"])
async def test_a_fetch_that_ends_as_it_is_told_withholds_nothing(ending: str, own_redis: Process) -> None:
    async with opened(own_redis) as backend, opened(own_redis) as other:
        assert backend.rouse is not None
        for turns in range(8):
            fetching = asyncio.create_task(backend.broker.fetch(["q"], 1, lease=LONG, wait=SOON))

            async def waits() -> bool:
                return bool(command(own_redis, "ZCARD", "{taskq:q}:waiting"))

            await wait_until(waits)
            await add(other.broker, a_job("q", f"j{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            fetching.cancel() if ending == "cancelled" else backend.rouse()
            (got,) = await asyncio.gather(fetching, return_exceptions=True)
            if isinstance(got, BaseException) or not got:
                got = await take(other.broker, "q")
            assert names(got) == [f"j{turns}"]
            await ack(other.broker, *got)


async def test_a_fetch_that_is_cancelled_in_the_turn_of_its_answer_withholds_nothing(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        await know_scripts(backend)
        await add(backend.broker, a_job("q"))
        fetching = asyncio.create_task(backend.broker.fetch(["q"], 1, lease=LONG, wait=0))
        # The loop stands still while this asks, so that the answer has come and nobody has read it.
        while not command(own_redis, "ZCARD", "{taskq:q}:leased"):  # noqa: ASYNC110 turn by turn
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        await ack(backend.broker, *await take(backend.broker, "q"))


async def test_connections_do_not_grow_with_what_waits(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        assert backend.hints is not None

        async def wait(queue: str) -> None:
            await backend.broker.fetch([queue], 1, lease=LONG, wait=SOON)

        async with (
            anyio.create_task_group() as tasks,
            backend.hints.subscribe(["news"]),
            backend.extender() as extender,
        ):
            for n in range(50):
                tasks.start_soon(wait, f"q{n % 7}")
            await anyio.wait_all_tasks_blocked()
            await extender.extend(["unknown-1"], LONG)
            clients = command(own_redis, "CLIENT", "LIST").splitlines()
            # One of them is this question's.
            assert 3 <= len(clients) - 1 <= 4
            tasks.cancel_scope.cancel()


async def test_a_cancelled_call_confuses_no_replies(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        store = backend.store
        assert store is not None
        for n in range(50):
            assert await store.swap(f"k{n}", None, str(n).encode())

        async def read(n: int) -> None:
            assert (await store.get(f"k{n}")).value == str(n).encode()

        tasks = [asyncio.create_task(read(n % 50)) for n in range(500)]
        await anyio.lowlevel.checkpoint()
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {type(None), asyncio.CancelledError}


@pytest.mark.parametrize(("aof", "durability"), [("always", "disk"), ("everysec", "seconds"), ("none", "process")])
async def test_durability_is_what_the_server_is_configured_for(
    aof: str, durability: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey.single(tmp_path, aof=aof) as server:  # type: ignore[arg-type]  # a parameter is a plain text
        async with opened(server) as backend:
            assert backend.broker.traits.durability == durability
        command(server, "CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        async with opened(server) as backend:
            assert backend.broker.traits.durability == "process"
            assert "throws jobs away" in caplog.text


async def test_a_server_that_forbids_config_is_trusted_with_seconds(own_redis: Process) -> None:
    command(own_redis, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-config", "-client")
    async with connect(f"redis://plain:secret@127.0.0.1:{own_redis.port}") as backend:
        assert backend.broker.traits.durability == "seconds"
        await add(backend.broker, a_job("q"))
        await ack(backend.broker, await take_one(backend.broker, "q"))


async def test_namespaces_and_databases_are_apart(own_redis: Process) -> None:
    async with (
        connect(own_redis.url, namespace="one") as one,
        connect(own_redis.url, namespace="two") as two,
        connect(f"{own_redis.url}/3") as three,
    ):
        for backend in (one, two, three):
            await add(backend.broker, a_job("q"))
        for backend in (one, two, three):
            assert names(await take(backend.broker, "q")) == ["a"]


async def test_a_unix_socket_is_a_server_too(tmp_path: Path) -> None:
    with valkey.single(tmp_path, options=["--unixsocket", str(tmp_path / "s")]):
        async with connect(f"unix://{tmp_path}/s") as backend:
            await add(backend.broker, a_job("q"))
            await ack(backend.broker, await take_one(backend.broker, "q"))


async def test_a_server_that_lost_its_jobs_is_noticed_once_by_the_next_fetch(
    own_redis: Process, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(own_redis) as backend, opened(own_redis) as other:
        await add(backend.broker, a_job("q", "before"))
        for broker in (backend.broker, other.broker):
            await broker.fetch(["q"], 1, lease=LONG, wait=0)
        assert not caplog.records
        command(own_redis, "FLUSHALL")
        for _ in range(3):
            for broker in (backend.broker, other.broker):
                assert await nothing(broker, "q")
        # By each process once, whichever of them was the first to look.
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
        assert "has lost jobs of queue 'q'" in caplog.text


async def test_a_server_that_went_back_to_a_copy_is_noticed_and_says_how_far(
    own_redis: Process, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(own_redis) as backend:
        assert await nothing(backend.broker, "q")
        await add(backend.broker, a_job("q"))
        moments: list[int] = []
        copies: list[bytes] = []
        for _ in range(2):
            assert len(await take(backend.broker, "q", lease=0.01)) == 1
            copies.append(command(own_redis, "DUMP", "{taskq:q}:latest"))
            moments.append(int(command(own_redis, "GET", "{taskq:q}:latest").split()[1]))
        command(own_redis, "RESTORE", "{taskq:q}:latest", 60_000, copies[0], "REPLACE")
        await backend.broker.fetch(["q"], 1, lease=LONG, wait=0)
        assert f"has lost the last {(moments[1] - moments[0]) / 1e6:.3f} s of queue 'q'" in caplog.text


async def test_a_fetch_of_large_jobs_comes_in_portions(own_redis: Process) -> None:
    async with opened(own_redis) as backend:
        await backend.broker.enqueue([Job(id=f"{n}", task="t", body=b"x" * 100_000, queue="q") for n in range(120)])
        first = await backend.broker.fetch(["q", "r"], 1000, lease=LONG, wait=0)
        assert 0 < len(first) < 120
        rest = await take(backend.broker, "q", 120 - len(first))
        assert len({delivery.job.id for delivery in [*first, *rest]}) == 120


async def test_memory_is_back_where_it_began_when_all_jobs_are_done(own_redis: Process) -> None:
    # The server's own logs of what was slow or large fill up to 128 entries each.
    for log in ("slowlog-log-slower-than", "commandlog-request-larger-than", "commandlog-reply-larger-than"):
        command(own_redis, "CONFIG", "SET", log, -1)
    async with opened(own_redis) as backend:

        def job(n: int) -> Job:
            fields = ({}, {"group": f"g{n}"}, {"unique": f"u{n}"}, {"delay": 0.001})[n % 4]
            return a_job("q", f"{n}", body=b"x" * 200, **fields)

        def end(n: int, receipt: str) -> Settlement:
            return (Ack(receipt), Ack(receipt, b"done", 0.05), DeadLetter(receipt, b"failed", 0.05))[n % 3]

        async def work_off(numbers: range) -> None:
            for first in numbers[::1000]:
                some = range(first, first + 1000)
                await add(backend.broker, *map(job, some))
                taken = await take(backend.broker, "q", 1000)
                ends = [end(int(name), delivery.receipt) for name, delivery in zip(names(taken), taken, strict=True)]
                assert all(await backend.broker.settle(ends))

        async def used() -> int:
            return int(command(own_redis, "INFO", "memory")["used_memory"])

        async def gone() -> bool:
            # Dead letters go with a fetch, which counts them.
            await nothing(backend.broker, "q")
            return not keys(own_redis)

        # Buffers of connections and scripts come with the first use.
        await work_off(range(1000))
        await wait_until(gone)
        before = await used()
        await work_off(range(1000, 101_000 if "TASKQ_TEST_LONG" in os.environ else 11_000))

        async def back() -> bool:
            return await gone() and await used() <= 1.01 * before

        await wait_until(back)


async def test_a_defer_may_wait_for_the_disk(tmp_path: Path) -> None:
    with valkey.single(tmp_path) as server:
        async with (
            opened(server, wait_disk=True, patience=PATIENT) as backend,
            opened(server, wait_disk=True, patience=1.0) as hasty,
        ):
            assert backend.broker.traits.durability == "disk"
            await add(backend.broker, a_job("q", "1"), a_job("q", "2", delay=LONG))
            command(server, "CONFIG", "SET", "appendfsync", "no")
            with pytest.raises(BrokerUnavailable, match="not on the disk yet"):
                await hasty.broker.enqueue([a_job("q", "3")])
            command(server, "CONFIG", "SET", "appendfsync", "always")
            (again,) = await backend.broker.enqueue([a_job("q", "3")])
            assert not again.added


@pytest.mark.parametrize("setting", ["appendonly no", "appendfsync no"])
async def test_a_server_that_cannot_wait_for_its_disk_is_refused(tmp_path: Path, setting: str) -> None:
    name, value = setting.split()
    with (
        valkey.single(tmp_path, options=[f"--{name}", value]) as server,
        pytest.raises(BrokerRejected, match="wait_disk needs"),
    ):
        await opened(server, wait_disk=True).__aenter__()


async def test_a_defer_may_wait_for_the_disk_of_a_replica(tmp_path: Path) -> None:
    (tmp_path / "master").mkdir()
    (tmp_path / "replica").mkdir()
    with valkey.single(tmp_path / "master", aof="always", options=["--repl-diskless-sync-delay", "0"]) as master:
        copying = ["--replicaof", f"127.0.0.1 {master.port}"]
        with valkey.single(tmp_path / "replica", aof="always", options=copying) as replica:
            valkey.await_all([replica], "master_link_status:up\r", "INFO replication")
            async with (
                opened(master, wait_replicas=1, wait_disk=True, patience=PATIENT) as backend,
                opened(master, wait_replicas=1, wait_disk=True, patience=1.0) as hasty,
            ):
                assert backend.broker.traits.durability == "replicated"
                await add(backend.broker, a_job("q", "1"))
                command(replica, "CONFIG", "SET", "appendfsync", "no")
                with pytest.raises(BrokerUnavailable, match="0 of the 1 replicas"):
                    await hasty.broker.enqueue([a_job("q", "2")])
                assert names(await take(backend.broker, "q", 2)) == ["1", "2"]
