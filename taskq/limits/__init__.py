"""Limits: so many in a time (``RateLimit``), so many at once (``Concurrency``); written once, on the Store.

``rates`` → ``line`` are pure; ``keeper`` asks a Store, and keeps places while a job runs; ``permit`` is what a handler
enters, ``several`` combines; ``limit`` is what both are made of, and ``declared`` what a task says.
"""

from taskq.limits.limit import Concurrency, RateLimit

__all__ = ["Concurrency", "RateLimit"]
