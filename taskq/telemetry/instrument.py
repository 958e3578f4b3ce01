"""Puts metrics and traces on an app, and takes in its workers."""

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from taskq.app import App
from taskq.telemetry.metrics import Metrics
from taskq.telemetry.tracing import Tracing
from taskq.worker.worker import Worker


class OpenTelemetry:
    """``OpenTelemetry().instrument(app)``, before the app is opened.

    Without providers the process's own are taken; where none is set up, OpenTelemetry does nothing.
    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        self._metrics = Metrics(meter_provider)
        self._tracing = Tracing(tracer_provider)

    def instrument(self, app: App) -> None:
        """Count what happens to the app's jobs, and trace each from its defer through all its runs."""
        self._metrics.follow(app.events)
        app.wrap(self._tracing.run, self._tracing.defer)

    def watch(self, worker: Worker) -> None:
        """Measure a worker's slots and its event loop, too; one a process."""
        self._metrics.watch(worker.look)
