"""Limits: so many in a time (``RateLimit``), so many at once (``Concurrency``); written once, on the Store.

``rates`` → ``line`` are pure; ``keeper`` asks a Store, and keeps places while a job runs; ``holding`` is what a handler
enters, ``limit`` what is declared.
"""

from taskq.limits.limit import Concurrency, Limit, RateLimit

__all__ = ["Concurrency", "Limit", "RateLimit"]
