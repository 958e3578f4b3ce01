"""Apps on SQS with a companion: what other tests show elsewhere holds here, and by configuration alone."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App
from taskq.companion import moves
from taskq.config import Settings, load_config
from taskq.errors import BrokerUnavailable, ConfigError, MissingCapability
from taskq.opening import open_backend
from taskq.testing.faults import sqs_front
from tests.backends.sqs.deployment import Tenant
from tests.flow import test_batches, test_chains
from tests.servers.fixtures import own_postgres as own_postgres
from tests.servers.fixtures import own_redis as own_redis
from tests.servers.process import Process
from tests.servers.proxy import proxied
from tests.servers.tenants import queue_on
from tests.worker import (
    test_control,
    test_dead_caps,
    test_limit_servers,
    test_payloads,
    test_retries,
    test_schedules_on_servers,
    test_server_backends,
)

pytestmark = pytest.mark.anyio

HASTY = "&command_timeout=1&connect_timeout=1"
LONG = pytest.mark.skipif("TASKQ_TEST_LONG" not in os.environ, reason="waits for what does not come: make test-long")


@pytest.fixture
def url(sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
    return Tenant(sqs).url


test_results = test_server_backends.test_a_result_is_awaited_over_another_connection_than_it_was_deferred_by
test_dead_letters = test_retries.test_a_failed_job_is_a_dead_letter_with_its_error_and_can_be_revived
test_quarantine = test_retries.test_a_job_whose_workers_died_three_times_is_quarantined
test_cancelled_while_it_runs = test_server_backends.test_a_running_job_is_cancelled_by_a_hint_from_another_connection
test_cancelled_while_it_waits = test_control.test_a_queued_job_that_is_cancelled_never_runs
test_unique_keys = test_server_backends.test_one_live_job_holds_a_unique_key
test_pause = test_server_backends.test_a_paused_queue_rests_until_it_is_resumed
test_schedules = test_schedules_on_servers.test_three_workers_fire_each_tick_once_by_the_backends_clock
test_too_many_dead_letters = test_dead_caps.test_of_too_many_dead_letters_the_oldest_are_dropped_and_told_of
test_large_calls = test_payloads.test_the_store_of_another_database_will_do
test_as_24 = test_limit_servers.test_as_24_views_are_counted_once_a_reader_though_a_worker_dies_in_each_window
test_groups = test_retries.test_groups_run_in_order_through_two_workers
test_places = test_limit_servers.test_any_number_of_jobs_wait_for_one_place_without_being_refused_and_use_it_at_once
office = test_batches.office
test_a_batch = test_batches.test_of_a_batch_with_failures_the_first_is_told_and_the_end
test_chains_with_failures = test_chains.test_a_job_that_fails_ends_its_chain_and_its_failure_is_told
test_gathers = test_chains.test_a_gather_goes_on_with_the_results_of_all


async def test_the_doctor_looks_at_both_and_tells_what_is_kept_where(url: str) -> None:
    settings = load_config({"url": url}, os.environ, Path()).settings
    async with open_backend(settings, print) as backend:
        assert backend.doctor is not None
        found = {finding.subject: finding for finding in await backend.doctor()}
    assert found["companion"].message == "SqliteStore keeps what SqsBroker cannot"
    assert any(subject.startswith("companion, ") for subject in found)


async def test_a_companion_that_is_not_needed_is_left_alone_and_told_of(tmp_path: Path) -> None:
    async with open_backend(Settings(url="memory://", companion=f"sqlite:///{tmp_path}/unused.db"), print) as backend:
        assert backend.doctor is not None
        (finding,) = await backend.doctor()
        assert (finding.level, finding.message) == ("warning", "it is not used: MemoryBroker has a store of its own")
    assert not (tmp_path / "unused.db").exists()


async def test_a_companion_without_a_store_is_refused(sqs: Process) -> None:
    with pytest.raises(ConfigError, match="a companion is a database that keeps a store"):
        async with App(Tenant(sqs).url, companion=Tenant(sqs).url):
            pass


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"priority": 1}, "priorities, which CompanionBroker does not promise: use a queue for each priority"),
        ({"transaction": True}, "transaction=True, which CompanionBroker does not promise: use PostgreSQL or SQLite"),
    ],
)
async def test_what_is_not_promised_keeps_the_app_from_opening(url: str, needs: dict[str, Any], said: str) -> None:
    app = App(url)

    async def note(key: str) -> None: ...

    app.task(**needs)(note)
    with pytest.raises(MissingCapability, match=said):
        async with app:
            pass


async def test_a_transaction_to_take_part_in_and_turns_of_tenants_are_not_promised(url: str) -> None:
    app = App(url)

    @app.task(tenant="ada", idempotent=True)
    async def note(n: int) -> None: ...

    async with app:
        with pytest.raises(MissingCapability, match=r"tx=, .*: use PostgreSQL or SQLite, or an outbox"):
            await note.options(tx=object()).defer(1)
        said = [finding.message for finding in app.check()]
    assert any("lets no tenants take turns" in message for message in said)


@pytest.mark.parametrize(
    ("name", "patience", "goes", "returns"),
    [
        pytest.param("own_redis", "", Process.kill, Process.start, id="redis-away"),
        pytest.param("own_postgres", "", Process.kill, Process.start, id="postgres-away"),
        pytest.param("own_postgres", HASTY, Process.pause, Process.resume, id="postgres-hung", marks=LONG),
    ],
)
async def test_as_42_while_the_companion_is_away_jobs_are_taken_and_their_results_come_when_it_is_back(
    sqs: Process,
    request: pytest.FixtureRequest,
    name: str,
    patience: str,
    goes: Callable[[Process], None],
    returns: Callable[[Process], None],
) -> None:
    companion: Process = request.getfixturevalue(name)
    app = App(Tenant(sqs).url, companion=queue_on(companion) + patience)

    @app.task(idempotent=True)
    async def double(number: int) -> int:
        return 2 * number

    async with app:
        goes(companion)
        job = await double.defer(21)
        assert job.added
        with pytest.raises(BrokerUnavailable):
            await job.status()
        with pytest.raises(BrokerUnavailable):
            await double.options(unique=True).defer(21)
        returns(companion)
        async with app.working():
            assert await job.result(timeout=60) == 42


@LONG
async def test_as_42_a_companion_that_is_slow_costs_time_and_doubles_nothing(
    sqs: Process, own_postgres: Process
) -> None:
    async with proxied(own_postgres.port) as (proxy, port):
        companion = queue_on(own_postgres).replace(f":{own_postgres.port}", f":{port}")
        app, runs = App(Tenant(sqs).url, companion=companion, lease=5), Counter[int]()

        @app.task(idempotent=True)
        async def double(number: int) -> int:
            runs[number] += 1
            # Its lease is extended on the way.
            await anyio.sleep(6)
            return 2 * number

        async with app:
            # Each way: another region of the continent.
            proxy.latency = 0.02
            jobs = [await double.options(unique=str(number)).defer(number) for number in range(5)]
            async with app.working():
                assert [await job.result(timeout=60) for job in jobs] == [0, 2, 4, 6, 8]
    assert runs == dict.fromkeys(range(5), 1)


async def test_what_could_not_be_sent_is_not_counted_and_what_holds_a_key_is_sent_later(
    sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "SENDING", 0.5)
    async with sqs_front(sqs.url) as front:
        app = App(Tenant(sqs, front.url).url, companion=f"sqlite:///{tmp_path}/companion.db")
        seen: list[str] = []

        @app.task(idempotent=True)
        async def note(name: str) -> None:
            seen.append(name)

        async with app:
            front.refusing = {"SendMessageBatch": "InternalError"}
            with pytest.raises(BrokerUnavailable):
                await note.defer("plain")
            assert not any(line.ready or line.later for line in await app.admin.stats())
            keyed = note.options(unique="k")
            with pytest.raises(BrokerUnavailable):
                await keyed.defer("keyed")
            front.refusing = {}
            assert not (await keyed.defer("again")).added
            async with app.working():
                with anyio.fail_after(60):
                    while not seen:  # noqa: ASYNC110 it says so by having run
                        await anyio.sleep(0.05)
    assert seen == ["keyed"]
