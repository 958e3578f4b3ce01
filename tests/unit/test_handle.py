"""What a handle makes of how its job ended."""

import pytest

from taskq.errors import (
    JobCancelled,
    JobDiscarded,
    JobError,
    JobExpired,
    JobFailed,
    JobLost,
    JobTimeout,
)
from taskq.handle import failure_of
from taskq.report import Ended, ErrorReport

FAILED = ErrorReport(type="shop.OutOfStock", message="no socks", attempt=2, at=0.0, traceback="Traceback …")
TIMEOUT = ErrorReport(type="taskq.errors.JobTimeout", message="ran past its time-out of 3 s", attempt=1, at=0.0)


@pytest.mark.parametrize(
    ("ended", "error", "says"),
    [
        (Ended("cancelled"), JobCancelled, "the job was cancelled"),
        (Ended("expired"), JobExpired, "the job could not start in time"),
        (Ended("discarded", reason="nobody there"), JobDiscarded, "nobody there"),
        (Ended("discarded"), JobDiscarded, "the job was discarded"),
        (Ended("lost", reason="its worker died under it"), JobLost, "its worker died under it"),
        (Ended("failed", errors=[TIMEOUT, FAILED]), JobFailed, "shop.OutOfStock: no socks"),
        (Ended("failed", errors=[FAILED, TIMEOUT]), JobTimeout, "ran past its time-out of 3 s"),
        (Ended("failed", reason="no task named 'x'"), JobFailed, "failed: no task named 'x'"),
        (Ended("quarantined", reason="3 workers died under it"), JobFailed, "quarantined: 3 workers died under it"),
    ],
)
def test_each_end_without_a_result_has_its_error(ended: Ended, error: type[JobError], says: str) -> None:
    failure = failure_of(ended)

    assert type(failure) is error
    assert str(failure) == says


def test_a_failure_carries_the_remote_error_as_text() -> None:
    failure = failure_of(Ended("failed", errors=[FAILED]))

    assert isinstance(failure, JobFailed)
    assert (failure.type, failure.message, failure.traceback) == ("shop.OutOfStock", "no socks", "Traceback …")
