"""What jobs log and print: which job a log record is of, and the last lines of a job that is to be captured.

::

    lines      lines, so many bytes of them at most, and what is stored of them: pure
    sources    where they come from: log records and the two streams
    apart      brings those of a handler in a process of its own to its worker
    recorder   in a worker: writes them to the Store
    kept       for who looks: reads them there
"""

from taskq.joblog.kept import kept_lines
from taskq.joblog.recorder import Recorder
from taskq.joblog.sources import mark_records

__all__ = ["Recorder", "kept_lines", "mark_records"]
