"""Every error of the service and the transport as an error of the tree, with a sentence that names the remedy."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# The driver has no types.

import asyncio

import aiohttp
from botocore import exceptions

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, PayloadTooLarge

PASSING: dict[str, str] = {
    "RequestThrottled": "the service throttles: it asks for fewer calls",
    "KmsThrottled": "the key service throttles: it asks for fewer calls",
    "Throttling": "the service throttles: it asks for fewer calls",
    "ThrottlingException": "the service throttles: it asks for fewer calls",
    "OverLimit": "too many messages of the queue are in flight: let workers settle some",
    "InternalError": "the service failed",
    "InternalFailure": "the service failed",
    "ServiceUnavailable": "the service is unavailable",
    "ExpiredToken": "the credentials have expired, and are asked for anew",
    "ExpiredTokenException": "the credentials have expired, and are asked for anew",
    "RequestExpired": "the request took too long to arrive, or this machine's clock is wrong",
    "QueueDeletedRecently": "a queue of this name was deleted less than a minute ago",
    "PurgeQueueInProgress": "the queue is being purged",
}
LASTING: dict[str, str] = {
    "QueueDoesNotExist": "the queue is missing: run `taskq sqs apply`",
    "QueueNameExists": "there is a queue of this name with other attributes: see `taskq sqs plan`",
    "AccessDenied": "the credentials may not do this: see the permissions that `taskq doctor` names",
    "AccessDeniedException": "the credentials may not do this: see the permissions that `taskq doctor` names",
    "InvalidSecurity": "the service takes requests over TLS only: use sqs:// or sqs+https://",
    "InvalidClientTokenId": "the service does not know the access key",
    "UnrecognizedClientException": "the service does not know the access key",
    "MissingAuthenticationToken": "the request carries no credentials",
    "SignatureDoesNotMatch": "the secret key is wrong, or this machine's clock is",
    "InvalidSignatureException": "the secret key is wrong, or this machine's clock is",
    "OptInRequired": "the account is not signed up for SQS in this region",
    "KmsAccessDenied": "the credentials may not use the queue's key",
    "KmsDisabled": "the queue's key is disabled",
    "KmsInvalidKeyUsage": "the queue's key is not for encryption",
    "KmsInvalidState": "the queue's key is in a state in which it cannot be used",
    "KmsNotFound": "the queue's key is gone",
    "KmsOptInRequired": "the account is not signed up for the key service",
    "BatchRequestTooLong": "the messages of a batch are too long together: see max_size in the URL",
    "InvalidMessageContents": "a message holds characters that SQS does not take",
    "InvalidAttributeName": "the service does not know an attribute",
    "InvalidAttributeValue": "the service does not take an attribute's value",
    "InvalidParameterValue": "the service does not take a value",
    "InvalidParameterCombination": "the service does not take these values together",
    "MissingParameter": "the service wants a value that it was not given",
    "ValidationError": "the service does not take a value",
    "UnsupportedOperation": "the service does not do this",
    "InvalidAction": "the service does not do this",
    "InvalidAddress": "the queue's address is wrong",
    "BatchEntryIdsNotDistinct": "a batch was malformed: report this as a defect of taskq",
    "EmptyBatchRequest": "a batch was malformed: report this as a defect of taskq",
    "InvalidBatchEntryId": "a batch was malformed: report this as a defect of taskq",
    "TooManyEntriesInBatchRequest": "a batch was malformed: report this as a defect of taskq",
    "InvalidIdFormat": "the receipt is void",
    "MessageNotInflight": "the receipt is void",
    "ReceiptHandleIsInvalid": "the receipt is void",
    "ResourceNotFoundException": "the service does not know what it was asked for",
}
VOID = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight", "InvalidIdFormat"})
"""What is said of a receipt whose message is gone or somebody else's; emulators and the service differ."""

TRANSPORT_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)

SaidError = exceptions.ClientError
"""What the service answers instead of an answer."""

DRIVER_ERRORS = (exceptions.BotoCoreError, exceptions.ClientError, *TRANSPORT_ERRORS)


def said(action: str, status: int, code: str, message: str) -> exceptions.ClientError:
    """What the service answered, as its driver's error."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, action)


def code_of(error: BaseException) -> str:
    """The service's word for what happened, or nothing."""
    response = getattr(error, "response", None) if isinstance(error, exceptions.ClientError) else None
    return str(response["Error"]["Code"]) if response else ""


def is_throttling(error: BaseException) -> bool:
    """Whether the service refused before it did anything."""
    return "Throttl" in code_of(error)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed soon."""
    return _judged(error)[0] is BrokerUnavailable


def translated(error: BaseException, what: str) -> BrokerError:
    """The error a caller sees; what happened stays its cause."""
    kind, remedy = _judged(error)
    found = kind(f"{what}: {remedy} ({error or type(error).__name__})")
    found.__cause__ = error
    return found


def _judged(error: BaseException) -> tuple[type[BrokerError], str]:
    code = code_of(error)
    if code in PASSING:
        return BrokerUnavailable, PASSING[code]
    if code in LASTING:
        return (PayloadTooLarge if code == "BatchRequestTooLong" else BrokerRejected), LASTING[code]
    if isinstance(error, exceptions.ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return (BrokerUnavailable, "the service failed") if status >= 500 else (BrokerRejected, "the service refused")
    if isinstance(error, aiohttp.ClientSSLError):
        return BrokerRejected, "the server's certificate was not accepted: see AWS_CA_BUNDLE"
    if isinstance(error, aiohttp.InvalidURL):
        return BrokerRejected, "the endpoint is no address"
    if isinstance(error, exceptions.BotoCoreError):
        return BrokerUnavailable, "the credentials could not be had"
    return BrokerUnavailable, "the service could not be reached"
