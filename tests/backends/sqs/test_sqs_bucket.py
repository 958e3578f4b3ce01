"""Calls too large for SQS in a bucket of S3."""

import re
import urllib.request
from pathlib import Path
from uuid import uuid4

import pytest
from taskq_sqs.bucket import connect

from taskq import App
from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError
from tests.backends.sqs.deployment import Tenant
from tests.servers.process import Process
from tests.worker import test_payloads

pytestmark = pytest.mark.anyio


class Cupboard:
    """A bucket, seen from outside."""

    def __init__(self, server: Process) -> None:
        self._place = f"{server.url}/b{uuid4().hex}"
        self._ask("PUT")
        self.url = f"s3+{self._place}/calls?region=us-east-1"

    @property
    def names(self) -> set[str]:
        with urllib.request.urlopen(f"{self._place}?list-type=2", timeout=10.0) as answer:
            return set(re.findall("<Key>calls/(.*?)</Key>", answer.read().decode()))

    def remove(self) -> None:
        self._ask("DELETE")

    def _ask(self, method: str) -> None:
        urllib.request.urlopen(urllib.request.Request(self._place, method=method), timeout=10.0).close()


@pytest.fixture
def cupboard(sqs: Process) -> Cupboard:
    return Cupboard(sqs)


@pytest.fixture
def url(sqs: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
    return Tenant(sqs).url


test_large_calls = test_payloads.test_a_large_call_runs_and_leaves_nothing
test_calls_that_were_not_added = test_payloads.test_a_call_that_was_not_added_is_not_kept


async def test_a_name_that_no_object_could_have_will_do_and_what_is_gone_is_nothing(cupboard: Cupboard) -> None:
    name = "ä/../" + 900 * "x"
    async with connect(cupboard.url) as bucket:
        await bucket.put(name, b"body", keep=60)
        assert await bucket.get(name) == b"body"
        for _ in range(2):
            await bucket.delete(name)
        assert await bucket.get(name) is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{server}/none-such", "there is no S3 bucket 'none-such': make it, or name another"),
        ("{server}", "write s3://bucket/prefix"),
        ("s3://bucket/prefix?acl=public", "with no other option than region"),
    ],
)
async def test_a_bucket_that_is_none_is_refused_when_the_app_opens(sqs: Process, url: str, says: str) -> None:
    place = url.format(server=f"s3+{sqs.url}")
    with pytest.raises(ConfigError, match=says):
        async with App(Tenant(sqs).url, payloads=place):
            pass


async def test_a_server_that_is_away_and_a_bucket_that_was_removed_are_told_apart(cupboard: Cupboard) -> None:
    async with connect("s3+http://127.0.0.1:1/bucket") as bucket:
        with pytest.raises(BrokerUnavailable, match="S3 bucket 'bucket'"):
            await bucket.put("a", b"", keep=60)
    async with connect(cupboard.url) as bucket:
        cupboard.remove()
        with pytest.raises(BrokerRejected, match="it has to permit s3:PutObject, s3:GetObject and s3:DeleteObject"):
            await bucket.put("a", b"", keep=60)
