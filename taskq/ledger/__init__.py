"""What a job has already done, on the Store: so that the run after a deploy or a crash goes on instead of over.

``notes`` is one job's memory, which ends with it; ``iteration`` and ``once`` are what stands on the Store; ``window``
is for several items of an iteration at once.
"""
