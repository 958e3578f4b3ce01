"""What the service answers and the URL says wrong, in our words."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# The driver has no types.

from typing import Any

import aiohttp
import botocore.loaders
import pytest
from botocore import exceptions
from taskq_sqs import settings
from taskq_sqs.faults import LASTING, PASSING, VOID, said, translated

from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError

MODEL: Any = botocore.loaders.Loader().load_service_model("sqs", "service-2")
CODES = sorted(name for name, shape in MODEL["shapes"].items() if shape.get("exception"))


@pytest.mark.parametrize("code", CODES)
def test_every_error_of_the_services_model_has_its_error_and_its_remedy(code: str) -> None:
    assert (code in PASSING) != (code in LASTING)


@pytest.mark.parametrize("code", [*PASSING, *LASTING])
def test_an_error_is_known_by_its_code_and_stays_the_cause(code: str) -> None:
    error = said("SendMessageBatch", 400, code, "no")
    found = translated(error, "SQS")
    assert isinstance(found, BrokerUnavailable if code in PASSING else BrokerRejected)
    assert found.__cause__ is error
    assert {**PASSING, **LASTING}[code] in str(found)


def test_what_voids_a_receipt_is_lasting() -> None:
    assert set(LASTING) >= VOID


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (said("A", 500, "New", ""), BrokerUnavailable),
        (said("A", 400, "New", ""), BrokerRejected),
        (aiohttp.ClientConnectionError(), BrokerUnavailable),
        (aiohttp.ServerDisconnectedError(), BrokerUnavailable),
        (aiohttp.ClientPayloadError(), BrokerUnavailable),
        (aiohttp.InvalidURL("x"), BrokerRejected),
        (TimeoutError(), BrokerUnavailable),
        (ConnectionResetError(), BrokerUnavailable),
        (exceptions.CredentialRetrievalError(provider="p", error_msg="m"), BrokerUnavailable),
    ],
)
def test_what_else_may_happen_is_judged_by_its_kind(error: Exception, kind: type[Exception]) -> None:
    assert type(translated(error, "SQS")) is kind


def test_a_url_names_region_and_prefix_or_another_server() -> None:
    read = settings.read("sqs://eu-west-1/shop?fifo=1&poll=5", {})
    assert (read.region, read.prefix, read.fifo, read.poll, read.endpoint) == ("eu-west-1", "shop", True, 5, None)
    assert settings.read("sqs://", {}).region is None
    other = settings.read("sqs+https://host:4566/shop?region=eu-west-1", {"bands": (5, 0)})
    assert (other.endpoint, other.region, other.bands) == ("https://host:4566", "eu-west-1", (5, 0))
    assert settings.read("sqs://eu-west-1/shop?endpoint=http://host:1&bands=10,0,-10", {}).bands == (10, 0, -10)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqs://eu-west-1/shop?unknown=1", "unknown"),
        ("sqs://eu-west-1/shop?poll=21", "1 to 20 seconds"),
        ("sqs://eu-west-1/shop?poll=often", "poll"),
        ("sqs://eu-west-1/a.b", "the prefix 'a.b'"),
        ("sqs://eu-west-1/a--b", "the prefix 'a--b'"),
        ("sqs://eu-west-1/shop?max_size=1", "max_size=1"),
        ("sqs://eu-west-1/shop?patience=0", "patience=0"),
        ("sqs://eu-west-1/shop?connections=0", "connections=0: without one nothing can be sent"),
        ("sqs://eu-west-1/shop?bands=10", "0 is one of them"),
        ("sqs://eu-west-1/shop?bands=0,10", "the largest first"),
        ("sqs://eu-west-1/shop?bands=10,0&fifo=1", "no bands"),
    ],
)
def test_a_url_that_makes_no_sense_says_what_would(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings.read(url, {})
