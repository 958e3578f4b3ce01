"""Large calls in a bucket of S3: what the setting ``payloads = "s3://bucket/prefix"`` opens."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# The driver has no types.

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore import exceptions
from msgspec import Struct

from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError
from taskq_sqs.faults import DRIVER_ERRORS, code_of, is_passing
from taskq_sqs.message import token

_PATIENCE = 10.0
"""Seconds after which a server that does not answer counts as lost."""


class Place(Struct, frozen=True):
    """Where the objects are."""

    bucket: str
    prefix: str
    region: str | None
    endpoint: str | None


class Bucket:
    """Bodies as objects of a bucket, each until its job has ended."""

    def __init__(self, client: Any, place: Place) -> None:
        self._client = client
        self._place = place

    async def put(self, name: str, body: bytes, *, keep: float) -> None:  # noqa: ARG002 a bucket has its own rules
        """Keep it: how long what nobody deletes stays is for a lifecycle rule of the bucket to say."""
        with self._telling():
            await self._client.put_object(**self._named(name), Body=body)

    async def get(self, name: str) -> bytes | None:
        with self._telling():
            try:
                answer = await self._client.get_object(**self._named(name))
            except exceptions.ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                raise
            async with answer["Body"] as stream:
                return bytes(await stream.read())

    async def delete(self, name: str) -> None:
        with self._telling():
            await self._client.delete_object(**self._named(name))

    def _named(self, name: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + token(name)}

    @contextmanager
    def _telling(self) -> Generator[None]:
        """In our words."""
        try:
            yield
        except DRIVER_ERRORS as error:
            what = f"S3 bucket {self._place.bucket!r}: {error or type(error).__name__}"
            if is_passing(error):
                raise BrokerUnavailable(what) from error
            needed = "it has to permit s3:PutObject, s3:GetObject and s3:DeleteObject"
            raise BrokerRejected(f"{what}; {needed}") from error


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[Bucket]:
    """The bucket of ``s3://bucket/prefix``, or ``s3+http://host:port/bucket/prefix`` for another server.

    Raises ConfigError for one that is not there.
    """
    place = _read(url)
    config = AioConfig(connect_timeout=_PATIENCE, read_timeout=_PATIENCE, retries={"total_max_attempts": 2})
    session: Any = aioboto3.Session(region_name=place.region)
    try:
        async with session.client("s3", endpoint_url=place.endpoint, config=config) as client:
            await _look(client, place)
            yield Bucket(client, place)
    except exceptions.NoCredentialsError as error:
        raise ConfigError("S3: no AWS credentials were found: set AWS_ACCESS_KEY_ID or AWS_PROFILE") from error


async def _look(client: Any, place: Place) -> None:
    try:
        await client.head_bucket(Bucket=place.bucket)
    except exceptions.NoCredentialsError:
        raise
    except DRIVER_ERRORS as error:
        # Who may not ask whether there is one may be allowed to use it, and who cannot be reached may be back then.
        if code_of(error) in ("404", "NoSuchBucket"):
            raise ConfigError(f"payloads: there is no S3 bucket {place.bucket!r}: make it, or name another") from error


def _read(url: str) -> Place:
    parts, options = urlsplit(url), dict(parse_qsl(urlsplit(url).query))
    region = options.pop("region", None)
    endpoint = None if parts.scheme == "s3" else f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}"
    path = parts.path.strip("/")
    bucket, _, prefix = (parts.netloc, "", path) if endpoint is None else path.partition("/")
    if not bucket or options:
        raise ConfigError(
            "payloads: write s3://bucket/prefix, or s3+http://host:port/bucket/prefix for another server, with no "
            "other option than region"
        )
    return Place(bucket, f"{prefix}/" if prefix else "", region, endpoint)
