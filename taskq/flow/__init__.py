"""Chains, gathers and batches, on the two seams: one story a file.

::

    marks      ends that are decided once, written down before their effects
    record     what is stored of a batch, and under which keys
    draft      what is said of a batch when it is made
    bounds     how large and how deep a batch may grow
    progress   who is told on the way, when so many have ended
    places     where members stand in their batch, by their numbers
    members    joining a batch and leaving it; the last one out enqueues the callbacks
    failing    who of a batch has failed, and how those ended who did not return
    stages     the making of a batch, which may wait in a spool
    start      a chain or gather into jobs
    batch      a batch in its producer's hands, and in those of who waits for it
    given      a job ends with what somebody else gives
    handle     a chain or gather that was deferred
"""

from taskq.flow.batch import Batch, BatchStatus, tagged
from taskq.flow.draft import BatchOptions
from taskq.flow.handle import FlowHandle
from taskq.flow.record import BatchReport, Ends

__all__ = ["Batch", "BatchOptions", "BatchReport", "BatchStatus", "Ends", "FlowHandle", "tagged"]
