"""Every error of the driver and the server as an error of the tree, with a sentence that names the remedy."""

import asyncio
import ssl

from redis import exceptions

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable

PASSING: dict[type[Exception], str] = {
    exceptions.ConnectionError: "the connection failed",
    exceptions.TimeoutError: "the server did not answer in time",
    exceptions.BusyLoadingError: "the server is loading its data: try again when it has",
    exceptions.MaxConnectionsError: "the server takes no more connections: raise its maxclients",
    exceptions.ReadOnlyError: "the server is a replica now: the master is looked for at the next try",
    exceptions.MasterDownError: "the replica has lost its master: try again after the failover",
    exceptions.ClusterDownError: "the cluster is down or fails over: try again when it serves all its slots",
    exceptions.ClusterError: "the cluster could not be reached as a whole",
    exceptions.RedisClusterException: "the cluster could not be reached as a whole",
    exceptions.SlotNotCoveredError: "no node of the cluster serves this slot",
    exceptions.MovedError: "the slot went on moving from node to node: try again when the resharding is over",
    exceptions.AskError: "the slot went on moving from node to node: try again when the resharding is over",
    exceptions.TryAgainError: "the slot is being moved to another node: try again when it has arrived",
    exceptions.OutOfMemoryError: (
        "the server has reached its maxmemory and takes no more jobs; it still settles those it has: "
        "let workers drain it, or raise maxmemory"
    ),
    exceptions.WatchError: "another client changed a key meanwhile",
    exceptions.ExecAbortError: "the server gave up a transaction",
    exceptions.NoScriptError: "the server lost a script that it had just been sent",
    exceptions.ExternalAuthProviderError: "the server could not ask its authentication provider",
}
LASTING: dict[type[Exception], str] = {
    exceptions.AuthenticationError: "the server wants another user or password: put them into the URL",
    exceptions.AuthenticationWrongNumberOfArgsError: "the server has no ACL users: leave the user out of the URL",
    exceptions.AuthorizationError: "the user may not do this: grant it the commands and keys that taskq needs",
    exceptions.NoPermissionError: "the user may not do this: grant it the commands, keys and channels that taskq needs",
    exceptions.ResponseError: "the server refused the command",
    exceptions.InvalidResponse: "what answers does not speak the protocol of Redis: check the URL's host and port",
    exceptions.DataError: "a value cannot be sent to the server",
    exceptions.ModuleError: "the server refused a module",
    exceptions.NoSuchFieldsetError: "the server refused a fieldset",
    exceptions.PubSubError: "the server refused a subscription",
    exceptions.LockError: "the driver refused a lock",
    exceptions.LockNotOwnedError: "the driver refused a lock",
    exceptions.ChildDeadlockedError: "the driver was used after a fork: open the backend in the child",
    exceptions.ClusterCrossSlotError: "the keys of a call were of several slots: report this as a defect of taskq",
    exceptions.CrossSlotTransactionError: "the keys of a call were of several slots: report this as a defect of taskq",
    exceptions.InvalidPipelineStack: "the driver refused a pipeline",
    exceptions.IncorrectPolicyType: "the driver refused a policy",
    exceptions.RedisError: "the driver failed",
}

SAID: dict[str, tuple[type[BrokerError], str]] = {
    "NOREPLICAS": (BrokerUnavailable, "too few replicas are in touch with the master: see its min-replicas-to-write"),
    "BUSY": (BrokerUnavailable, "a script of somebody else keeps the server busy: end it with SCRIPT KILL"),
    "MISCONF": (BrokerUnavailable, "the server cannot write its snapshots to disk and takes no writes: see its log"),
    "UNBLOCKED": (BrokerUnavailable, "the server is failing over"),
    "FAILOVER": (BrokerUnavailable, "the server is failing over"),
    "WRONGTYPE": (BrokerRejected, "a key of this name belongs to something else: choose another namespace"),
    "NOPROTO": (BrokerRejected, "the server does not speak this version of the protocol"),
    "DENIED": (BrokerRejected, "the server is in protected mode: bind it or give it a password"),
}
"""By the first word of an error for which the driver has no class."""

DRIVER_ERRORS = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
    exceptions.IncorrectPolicyType,
    asyncio.TimeoutError,
    OSError,
    UnicodeEncodeError,
)
"""What the driver raises: the last for a text that cannot be sent."""


def translated(error: Exception, server: str) -> BrokerError:
    """The error a caller sees for what the driver raised; the driver's own stays its cause."""
    kind, remedy = _judged(error)
    found = kind(f"{server}: {remedy} ({error or type(error).__name__})")
    found.__cause__ = error
    return found


def _judged(error: Exception) -> tuple[type[BrokerError], str]:
    # The driver wraps it into a failed connection.
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in (error, error.__cause__, error.__context__)):
        return BrokerRejected, "the server's certificate was not accepted: see ssl_ca_certs in the URL"
    word = str(error).partition(" ")[0]
    if type(error) is exceptions.ResponseError and word in SAID:
        return SAID[word]
    for kind in type(error).__mro__:
        if kind in PASSING:
            return BrokerUnavailable, PASSING[kind]
        if kind in LASTING:
            return BrokerRejected, LASTING[kind]
    if isinstance(error, UnicodeEncodeError):
        return BrokerRejected, "text that is not valid Unicode cannot be sent"
    return BrokerUnavailable, "the server could not be reached"
