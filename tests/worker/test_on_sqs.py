"""Where SQS carries jobs and a companion keeps the rest: looking into them, limits between workers, and stories."""

from pathlib import Path

import pytest

from tests.backends.sqs.deployment import Tenant
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.process import Process
from tests.worker import test_dead_workers, test_explain, test_joblog, test_limit_servers, test_stories

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db?synchronous=off")
    return Tenant(sqs).url


# Tests of other modules, with the fixture of this one.
test_as_02 = test_dead_workers.test_as_02_a_newsletter_whose_worker_died_does_not_stay_at_sending
test_as_18 = test_stories.test_as_18_a_job_does_not_start_after_the_moment_its_caller_named
test_looks = test_explain.test_whoever_looks_at_workers_waits_for_them_and_not_for_a_time
test_runs = test_explain.test_a_job_says_who_has_the_slots_and_who_runs_it
test_group = test_explain.test_a_job_whose_group_is_full_names_who_holds_it
test_dead = test_explain.test_a_dead_job_says_why_and_how_it_is_revived_and_a_gone_one_how_it_ended
test_follows = test_explain.test_a_job_that_follows_others_says_what_they_wait_for
test_lines = test_joblog.test_what_a_job_logs_and_prints_is_kept_with_that_of_its_earlier_attempts
test_tail = test_joblog.test_the_lines_of_a_job_can_be_read_while_it_runs
test_as_03 = test_limit_servers.test_as_03_two_workers_race_for_each_newsletter_and_one_of_them_sends
