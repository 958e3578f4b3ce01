"""What became of the jobs of the last days, by task and queue: counts, and how long they waited and ran.

::

    tally      counts and histograms: pure
    historian  in a worker: counts what happens, and writes it to the Store once a minute
    past       for who looks: what all workers have written
    marks      moments with a label, such as deploys, that stand beside it
"""

from taskq.history.historian import KEPT, Historian
from taskq.history.marks import Mark, mark
from taskq.history.past import Past, look_back

__all__ = ["KEPT", "Historian", "Mark", "Past", "look_back", "mark"]
