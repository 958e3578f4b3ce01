"""One trace for a job, from its defer over all its runs to the jobs that these defer.

The context travels in the job's headers as W3C Trace Context (``traceparent``, ``tracestate``). Names and attributes
follow OpenTelemetry's semantic conventions for messaging.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from taskq.context import Current
from taskq.errors import Signal
from taskq.job import Job
from taskq.middleware import Handler


class Tracing:
    """The two layers that carry the context."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("taskq", tracer_provider=provider)

    async def defer(self, job: Job) -> Job:
        """A span for handing the job over; the job carries it on."""
        with self._tracer.start_as_current_span(
            f"send {job.queue}", kind=SpanKind.PRODUCER, attributes=_attributes(job, "send")
        ):
            headers = dict(job.headers)
            propagate.inject(headers)
        return msgspec.structs.replace(job, headers=headers)

    async def run(self, current: Current, handler: Handler) -> Any:
        """A span for each run, below the span that deferred the job."""
        attributes: dict[str, str | int] = {
            **_attributes(current.job, "process"),
            "taskq.job.attempt": current.attempt,
            "taskq.job.losses": current.losses,
        }
        with self._tracer.start_as_current_span(
            f"process {current.queue}",
            context=propagate.extract(current.headers),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await handler(current)
            except BaseException as error:
                _end(span, error)
                raise


def _end(span: Span, error: BaseException) -> None:
    """A signal is an answer and no failure; everything else is one, a cancellation too."""
    if isinstance(error, Signal):
        span.add_event(type(error).__name__)
    else:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _attributes(job: Job, operation: str) -> Mapping[str, str]:
    return {
        "messaging.system": "taskq",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": job.queue,
        "messaging.message.id": job.id,
        "taskq.task": job.task,
    }
