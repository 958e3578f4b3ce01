import pytest

from taskq.expiry import EXPIRES_AT, dated, expiry
from taskq.job import Delivery, Job


@pytest.mark.parametrize(
    ("header", "since_due", "expected"),
    [
        (None, None, None),
        (None, 50.0, 50.0),
        ("40.5", None, 40.5),
        ("40.5", 50.0, 40.5),
        ("60", 50.0, 50.0),
        ("soon", 50.0, 50.0),
        ("nan", None, None),
        ("inf", None, None),
    ],
)
def test_the_earlier_moment_counts_and_nonsense_says_nothing(
    header: str | None, since_due: float | None, expected: float | None
) -> None:
    headers = {} if header is None else {EXPIRES_AT: header}
    assert expiry(headers, since_due) == expected
    job = Job(id="1", task="t", body=b"", headers=headers)
    delivery = Delivery(job=job, attempt=1, losses=0, fence=1, receipt="r", now=0.0, due=0.0, expires_at=since_due)
    assert dated(delivery).expires_at == expected
