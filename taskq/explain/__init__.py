"""Why a job does not run, or ran twice: the causes that are recorded, as a tree.

::

    evidence   what is known of the job, its queue, the workers: everything here asks the backend
    reasons    what follows from that: pure
    ask        both together, and the jobs that this one waits for
"""

from taskq.explain.ask import explain
from taskq.explain.reasons import Explanation, Reason

__all__ = ["Explanation", "Reason", "explain"]
