"""Every error taskq raises on purpose. A name says what to do about it.

::

    TaskqError
    ├── ConfigError              found at import or start, never while running
    │   ├── DuplicateTask · UnknownTask · UnknownScheme · InvalidSchedule
    │   └── MissingCapability    names the task, the need, the broker and the remedy
    ├── CodecError               EncodeError · DecodeError
    ├── BrokerError              always with __cause__ = the driver's error
    │   ├── BrokerUnavailable    network, timeout, a busy or full server: try again
    │   │   └── PartlySettled    says which settlements of a call were answered
    │   └── BrokerRejected       PayloadTooLarge · SchemaOutdated · permissions: do not
    ├── JobError                 what a caller of result() sees
    │   ├── JobFailed            type, message, traceback as text
    │   └── JobCancelled · JobExpired · JobTimeout · JobDiscarded · JobLost
    ├── DeferError               the call was understood and refused
    │   ├── Conflict · Vetoed · SpoolFull · BatchSealed · BatchFull · LimitExceeded
    │   └── PartlyEnqueued       says which jobs of a bulk call were and were not
    ├── RunError                 what a run learns of its own job
    │   └── StaleRun · EffectUnknown
    ├── ResultNotReady · ResultNotKept
    └── NotVerified              a webhook that is not what its sender signed, or not from now
    Signal (not a TaskqError)    RetryIn · Snooze · Discard: raised by handlers
    └── HandedBack               raised by taskq inside a run that is to go on later
    SomeFailed                   raised by handlers that collect, of a part of their items
"""

from collections.abc import Iterable, Mapping, Sequence

from taskq.retryafter import RetryAfter, seconds_from_now


class TaskqError(Exception):
    """The root: catching it catches everything taskq raises on purpose."""


class ConfigError(TaskqError):
    """The program or its settings are wrong; no retry will help."""


class DuplicateTask(ConfigError):
    """Two tasks claim one name."""


class UnknownTask(ConfigError):
    """No task of this name is registered in this app."""


class UnknownScheme(ConfigError):
    """No installed backend answers to this URL's scheme."""


class InvalidSchedule(ConfigError):
    """A schedule cannot be read, contradicts itself, is never due or does not fit its task."""


class MissingCapability(ConfigError):
    """A task needs what the broker does not promise."""


class CodecError(TaskqError):
    """Arguments or results could not cross the wire."""


class EncodeError(CodecError):
    """A value cannot be sent; the message names its path."""


class DecodeError(CodecError):
    """Received bytes do not fit the task's signature."""


class BrokerError(TaskqError):
    """The backend failed; ``__cause__`` is the driver's own error."""


class BrokerUnavailable(BrokerError):
    """Network, time-out, a busy or full server: the same call may succeed later."""


class PartlySettled(BrokerUnavailable):
    """Some settlements of a call were answered, as jobs may be on several servers; the others may be tried again.

    ``answers`` are those of ``settle``, with None where it is not known.
    """

    def __init__(self, message: str, answers: Sequence[bool | None]) -> None:
        super().__init__(message)
        self.answers = answers


class BrokerRejected(BrokerError):
    """The backend understood and refused: the same call will fail again."""


class PayloadTooLarge(BrokerRejected):
    """A job's body is larger than the broker takes."""


class SchemaOutdated(BrokerRejected):
    """The stored schema is not the one this version works with."""


class JobError(TaskqError):
    """The job ended without a result."""


class JobFailed(JobError):
    """The handler raised; carries the remote type, message and traceback as text."""

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type}: {message}")
        self.type = type
        self.message = message
        self.traceback = traceback


class JobCancelled(JobError):
    """The job was cancelled before it could end by itself."""


class JobExpired(JobError):
    """The job could not start within its ``expires_in``."""


class JobTimeout(JobError):
    """The job ran past its time-out."""


class JobDiscarded(JobError):
    """The handler raised ``Discard``, or its error is on the task's discard list."""


class JobLost(JobError):
    """The job's workers died under it, and its guarantee forbids running it again."""


class DeferError(TaskqError):
    """The call was understood and refused."""


class Conflict(DeferError):
    """Another live job holds the unique key; ``holder`` is its id."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class Vetoed(DeferError):
    """A defer middleware refused the job."""


class SpoolFull(DeferError):
    """The broker is out of reach, and the spool takes no more: nothing was kept."""


class LimitExceeded(DeferError):
    """A limit had nothing to grant in the time given; a handler that lets it pass runs again later, uncounted."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after
        """Seconds after which it is worth another try."""


class BatchSealed(DeferError):
    """The batch takes no more members: it was sealed, has ended, or was cancelled."""


class BatchFull(DeferError):
    """The batch takes no more members, or goes no deeper: its bounds are ``most`` and ``deepest``."""


class PartlyEnqueued(DeferError):
    """Some jobs of a bulk call were not enqueued; ``errors`` maps their index to the reason."""

    def __init__(self, message: str, errors: Mapping[int, TaskqError]) -> None:
        super().__init__(message)
        self.errors = errors


class RunError(TaskqError):
    """What a run learns of its own job; let it pass, and the job is treated as it must be."""


class StaleRun(RunError):
    """Another run has this job by now: whatever this one does no longer counts."""


class EffectUnknown(RunError):
    """A run died between the start of an effect and its end: somebody has to find out whether it happened."""


class ResultNotReady(TaskqError):
    """The job had not ended within the time given."""


class ResultNotKept(TaskqError):
    """The task keeps no results, so there is nothing to wait for."""


class NotVerified(TaskqError):
    """A webhook is not what its sender signed, or not from now: answer 401, and do nothing."""


class Signal(Exception):
    """Raised by a handler to choose what happens to its job."""


class RetryIn(Signal):
    """Run again after ``after``: seconds, a moment, or a ``Retry-After`` header; counts as an attempt."""

    def __init__(self, after: RetryAfter, reason: str = "") -> None:
        super().__init__(reason)
        self.after = _seconds(after)


class Snooze(Signal):
    """Run again after ``after``, given as to RetryIn; counts as an attempt when ``Retry.snoozes`` are used up."""

    def __init__(self, after: RetryAfter, reason: str = "") -> None:
        super().__init__(reason)
        self.after = _seconds(after)


class SomeFailed(Exception):
    """Raised by a handler with ``collect=``: these of its items have failed, and all others are done.

    An ordinary failure of the job, which counts as an attempt and is retried as its task says; but the next run gets
    these items alone, and so does a dead letter. Raises ConfigError without any.
    """

    def __init__(self, items: Iterable[object], reason: str = "") -> None:
        self.items = list(items)
        if not self.items:
            raise ConfigError("SomeFailed([]): name the items that failed; when none did, return")
        self.reason = reason
        # What it is pickled by.
        super().__init__(self.items, reason)

    def __str__(self) -> str:
        said = f": {self.reason}" if self.reason else ""
        return f"{len(self.items)} of its items failed{said}"


class HandedBack(Signal):
    """Run again after ``after`` seconds, through no wish of the handler; counts neither as attempt nor as snooze."""

    def __init__(self, after: float, reason: str) -> None:
        super().__init__(reason)
        self.after = after


class Discard(Signal):
    """End the job without a result and without a dead letter."""


def _seconds(after: RetryAfter) -> float:
    try:
        return seconds_from_now(after)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{after!r} is no delay: give seconds of at least 0, a timedelta, a datetime, or a Retry-After header"
        ) from error
