"""Who we are and where the service answers: the usual AWS configuration, through aioboto3."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# The driver has no types.

from typing import Any

import aioboto3
from botocore import exceptions
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from msgspec import Struct

from taskq.errors import ConfigError
from taskq_sqs.settings import Settings


class Account(Struct, frozen=True):
    """A region's endpoint."""

    endpoint: str
    region: str

    async def signer(self) -> "Signer":
        """A signer of its own, for one event loop. Raises ConfigError when there are no credentials."""
        session: Any = aioboto3.Session(region_name=self.region)
        try:
            credentials = await session.get_credentials()
        except exceptions.BotoCoreError as error:
            raise ConfigError(f"SQS: the AWS credentials cannot be used: {error}") from error
        if credentials is None:
            raise ConfigError(
                "SQS: no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
                "or run where a role is given"
            )
        return Signer(credentials, self)


class Signer:
    """Signs requests; credentials that expire are renewed on the way."""

    def __init__(self, credentials: Any, account: Account) -> None:
        self._credentials = credentials
        self._account = account

    async def sign(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        """The headers of a request, with those that prove who sends it."""
        request: Any = AWSRequest("POST", self._account.endpoint, headers, body)
        frozen = await self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "sqs", self._account.region).add_auth(request)
        return dict(request.headers.items())


async def find_account(settings: Settings) -> Account:
    """The endpoint and region in force. Raises ConfigError where there are none."""
    try:
        session: Any = aioboto3.Session(region_name=settings.region)
        region = session.region_name
        if settings.endpoint is not None:
            return Account(settings.endpoint.rstrip("/") + "/", region or "us-east-1")
        # Made for what it finds out (partition, FIPS, AWS_ENDPOINT_URL_SQS …), and then let go.
        async with session.client("sqs", region_name=region) as client:
            return Account(client.meta.endpoint_url.rstrip("/") + "/", client.meta.region_name)
    except (exceptions.BotoCoreError, ValueError) as error:
        raise ConfigError(f"SQS: {error}; write sqs://region/prefix") from error
