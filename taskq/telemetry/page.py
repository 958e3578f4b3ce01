"""Metrics as a page for Prometheus; needs the extra ``metrics``."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from taskq.broker import QueueStats
from taskq.events import Events
from taskq.telemetry.metrics import Metrics
from taskq.worker.probes import Page
from taskq.worker.sight import Sight

FRESH = 5.0
"""Seconds for which counts of queues are good: however many ask for the page, the broker is asked once."""
PATIENCE = 2.0


class MetricsPage:
    """What a worker tells Prometheus."""

    def __init__(
        self, events: Events, look: Callable[[], Sight], count: Callable[[], Future[Sequence[QueueStats]]]
    ) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry)
        metrics = Metrics(MeterProvider([reader]))
        metrics.follow(events)
        metrics.watch(look)
        metrics.count(self._stats)
        self._count = count
        """Asks the broker, in the worker's loop."""
        self._counted: Sequence[QueueStats] = ()
        self._counted_at = float("-inf")

    def __call__(self) -> Page:
        """The page as it is now."""
        return Page(generate_latest(self._registry), kind=CONTENT_TYPE_LATEST)

    def _stats(self) -> Sequence[QueueStats]:
        now = time.monotonic()
        if now - self._counted_at > FRESH:
            self._counted_at = now
            self._counted = ()
            # A broker that does not answer must not keep the rest from being told.
            with suppress(Exception):
                self._counted = self._count().result(PATIENCE)
        return self._counted
