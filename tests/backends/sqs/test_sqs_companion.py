"""Apps on SQS with a companion: what other tests show elsewhere holds here, and by configuration alone."""

from pathlib import Path

import pytest

from tests.backends.sqs.deployment import Tenant
from tests.flow import test_chains
from tests.servers.process import Process
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
test_chains_with_failures = test_chains.test_a_job_that_fails_ends_its_chain_and_its_failure_is_told
test_gathers = test_chains.test_a_gather_goes_on_with_the_results_of_all
