"""Every error of the driver as an error of the tree, with a sentence that names the remedy."""

from collections.abc import Generator
from contextlib import contextmanager

import asyncpg

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable

# By SQLSTATE, and where that is not found by its first two characters;
# https://www.postgresql.org/docs/current/errcodes-appendix.html tells what each means.
PASSING = {
    "08": "the connection failed",
    "25006": "the server is a standby or read-only: after a failover the next try finds the primary",
    "40": "the transaction met another one",
    "53": "the server is out of a resource",
    "53100": "the server's disk is full: free some space",
    "53300": "the server has no connection left: raise max_connections, or start fewer processes",
    "55": "what the statement needs is in use",
    "57": "the server was told to stop the statement",
    "57014": "the statement ran too long: see what the server waits for, or raise command_timeout",
    "58": "the server's system failed",
}
LASTING = {
    "00": "the server reports a code that is no error",
    "01": "the server reports a warning as an error",
    "02": "the server reports a code that is no error",
    "03": "the statement does not fit the server",
    "09": "a trigger of your own failed",
    "0A": "the server lacks a feature that taskq needs: use PostgreSQL 15 or newer",
    "0B": "the transaction was begun in a way that cannot be used",
    "0F": "the statement does not fit the server",
    "0L": "a grant failed: let this user's role do it",
    "0P": "the role cannot be used: check the user in the URL",
    "0Z": "the statement does not fit the server",
    "10": "the statement does not fit the server",
    "20": "the statement does not fit the server",
    "21": "the statement does not fit the server",
    "22": "a value has a form that no column takes",
    "23": "a value breaks a rule of the schema",
    "24": "the statement does not fit the transaction",
    "25": "the transaction has failed or ended: begin another",
    "26": "a prepared statement is not there: behind a pooler add pooled=1 to the URL",
    "27": "a trigger of your own changed the data under the statement",
    "28": "the server refuses this user: check the user and password in the URL, and pg_hba.conf",
    "2B": "a role still has privileges",
    "2D": "the transaction cannot be ended here",
    "2F": "a function failed: run `taskq migrate` on the URL again",
    "34": "a cursor is not there",
    "38": "a function failed: run `taskq migrate` on the URL again",
    "39": "a function failed: run `taskq migrate` on the URL again",
    "3B": "a savepoint is not there",
    "3D": "the database does not exist: create it, or check the URL",
    "3F": "the schema does not exist: run `taskq migrate` on the URL",
    "42": "the schema lacks what taskq needs: run `taskq migrate` on the URL",
    "42501": "this user lacks a privilege: grant it a role of `taskq migrate --roles`",
    "44": "a value breaks a rule of the schema",
    "54": "a value is larger than the server takes",
    "72": "the snapshot is too old",
    "F0": "the server's configuration is wrong: see its log",
    "HV": "a foreign table failed",
    "P0": "a function failed: run `taskq migrate` on the URL again",
    "XX": "the server found a defect in itself or its files: see its log",
}

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    UnicodeEncodeError,
    OverflowError,
)
"""What the driver raises: OSError and TimeoutError for a server that cannot be reached or does not answer."""


def translated(error: BaseException, shown: str) -> BrokerError:
    """The error a caller sees for what the driver raised; the driver's own stays its cause."""
    kind, remedy = _verdict(error)
    found = kind(f"{shown}: {remedy} ({type(error).__name__}: {error})")
    found.__cause__ = error
    return found


def _verdict(error: BaseException) -> tuple[type[BrokerError], str]:
    match error:
        case asyncpg.PostgresError():
            return _by_state(error.sqlstate or "08")
        case asyncpg.DataError() | UnicodeEncodeError() | OverflowError():
            return BrokerRejected, "a value has a form that no column takes"
        case asyncpg.ClientConfigurationError():
            return BrokerRejected, "the URL cannot be used: correct it"
        case asyncpg.UnsupportedClientFeatureError() | asyncpg.UnsupportedServerFeatureError():
            return BrokerRejected, "the driver and the server do not fit: use PostgreSQL 15 or newer"
        case TimeoutError():
            return BrokerUnavailable, "the server did not answer in time"
        case OSError():
            return BrokerUnavailable, "the server cannot be reached"
        case asyncpg.InterfaceError():
            return BrokerUnavailable, "the connection is closed or in use"
        case _:
            # A driver of the caller's: SQLAlchemy keeps what its driver raised.
            state = getattr(getattr(error, "orig", error), "sqlstate", None)
            if isinstance(state, str):
                return _by_state(state)
            return BrokerUnavailable, "the connection fell out of step with the server"


def _by_state(state: str) -> tuple[type[BrokerError], str]:
    for code in (state, state[:2]):
        if code in PASSING:
            return BrokerUnavailable, PASSING[code]
        if code in LASTING:
            return BrokerRejected, LASTING[code]
    return BrokerRejected, "the server reports a code that is not known"


@contextmanager
def translating(shown: str, errors: tuple[type[Exception], ...] = DRIVER_ERRORS) -> Generator[None]:
    """Let what the driver, or a caller's own, raises inside leave as an error of the tree."""
    try:
        yield
    except errors as error:
        raise translated(error, shown) from error
