"""Async tasks on the queue you already have."""

from taskq.app import App
from taskq.call import gather
from taskq.codec import Codec
from taskq.collect import Collect
from taskq.context import Current, current
from taskq.debounce import Debounce
from taskq.depends import Depends
from taskq.errors import Discard, RetryIn, Snooze, SomeFailed, TaskqError
from taskq.flow import Batch, BatchReport, BatchStatus, FlowHandle
from taskq.handle import JobHandle
from taskq.limits import Concurrency, RateLimit
from taskq.report import Death
from taskq.retry import Retry
from taskq.spread import Spread
from taskq.task import Task
from taskq.tasks import Tasks

__all__ = [
    "App",
    "Batch",
    "BatchReport",
    "BatchStatus",
    "Codec",
    "Collect",
    "Concurrency",
    "Current",
    "Death",
    "Debounce",
    "Depends",
    "Discard",
    "FlowHandle",
    "JobHandle",
    "RateLimit",
    "Retry",
    "RetryIn",
    "Snooze",
    "SomeFailed",
    "Spread",
    "Task",
    "TaskqError",
    "Tasks",
    "current",
    "gather",
]
