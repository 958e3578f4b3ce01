"""What the command's exit tells a script."""

from taskq.errors import BrokerUnavailable, CodecError, ConfigError, TaskqError
from taskq.worker.generation import WRONG

FAILED, UNAVAILABLE = 1, 3

EXIT_CODES = """\b
Exit codes:
  0    done
  1    not all of it could be done: no such job, a conflict, a failed check, a broker that refuses
  2    the command line, the settings or the app are wrong
  3    the broker cannot be reached: the same command may succeed later
  130  interrupted; a worker left by a second signal answers 128 + its number
"""


def code_of(error: TaskqError) -> int:
    """The exit code that says what to do about an error."""
    match error:
        case ConfigError() | CodecError():
            return WRONG
        case BrokerUnavailable():
            return UNAVAILABLE
        case _:
            return FAILED
