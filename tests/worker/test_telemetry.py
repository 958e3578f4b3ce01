"""Metrics and traces: what a job goes through is counted and measured, and one trace joins all of it."""

import asyncio
import json
import re
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from prometheus_client.parser import text_string_to_metric_families

from taskq import App, Retry, RetryIn, current
from taskq.broker import QueueStats
from taskq.errors import ConfigError
from taskq.events import (
    BrokerLost,
    DeadLettersDropped,
    JobDropped,
    JobFinished,
    JobRepeated,
    JobsFetched,
    JobsRecovered,
    JobsSpooled,
    JobVetoed,
    LeaseLost,
    LimitGranted,
    LimitRefused,
    LoopStalled,
    MemoryGrown,
    PlaceLeft,
    PlaceLost,
    PlaceTaken,
    SettlementRefused,
    TickDecided,
    TickVerdict,
)
from taskq.telemetry import OpenTelemetry
from taskq.telemetry.metrics import NAMES
from taskq.telemetry.page import MetricsPage
from taskq.testing import run_until_idle
from taskq.worker.run import JobFields
from tests.worker.moves import lose, wait_until

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"

pytestmark = pytest.mark.anyio


def tracing(app: App) -> InMemorySpanExporter:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    OpenTelemetry(tracer_provider=provider).instrument(app)
    return spans


class OutOfReach(SpanExporter):
    """An exporter to a port on which nobody listens."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 they get nowhere
        with socket.create_connection(("127.0.0.1", 1)):
            return SpanExportResult.SUCCESS


def named(spans: Sequence[ReadableSpan], name: str) -> Sequence[ReadableSpan]:
    return [span for span in spans if span.name == name]


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


async def test_one_trace_joins_defer_run_retry_and_child(url: str) -> None:
    app = App(url)
    exporter = tracing(app)

    @app.task(queue="mail", retry=Retry.fixed(2, 0.0))
    async def parent() -> None:
        if current().attempt == 1:
            raise ValueError("not yet")
        await child.defer()

    @app.task(queue="news")
    async def child() -> None: ...

    async with app:
        await parent.defer()
        await run_until_idle(app, until="empty")
    spans = exporter.get_finished_spans()
    (sent,), runs = named(spans, "send mail"), named(spans, "process mail")
    (deferred,), (ran,) = named(spans, "send news"), named(spans, "process news")
    assert len({context(span).trace_id for span in spans}) == 1
    parents = [span.parent.span_id if span.parent is not None else None for span in (sent, *runs, deferred, ran)]
    ids = [context(span).span_id for span in (sent, *runs, deferred, ran)]
    assert parents == [None, ids[0], ids[0], ids[2], ids[3]]
    assert [dict(span.attributes or {})["taskq.job.attempt"] for span in runs] == [1, 2]
    assert [span.status.is_ok for span in runs] == [False, True]
    assert runs[0].events[0].name == "exception"


async def test_a_collector_out_of_reach_costs_no_job_anything(caplog: pytest.LogCaptureFixture) -> None:
    app = App("memory://")
    ran: list[str] = []
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OutOfReach()))
    OpenTelemetry(tracer_provider=provider).instrument(app)

    @app.task
    async def note(word: str) -> None:
        ran.append(word)

    async with app:
        await note.defer("a")
        await run_until_idle(app, raise_failures=True)
    assert ran == ["a"]
    assert "Exception while exporting Span." in caplog.messages


async def test_a_signal_is_an_answer_and_no_error() -> None:
    app = App("memory://")
    exporter = tracing(app)

    @app.task(queue="mail", retry=Retry(2))
    async def later() -> None:
        if current().attempt == 1:
            raise RetryIn(0)

    async with app:
        await later.defer()
        await run_until_idle(app, until="empty")
    first, _ = named(exporter.get_finished_spans(), "process mail")
    assert first.status.is_ok
    assert [event.name for event in first.events] == ["RetryIn"]


async def test_an_open_app_cannot_be_wrapped_any_more() -> None:
    app = App("memory://")
    async with app:
        with pytest.raises(ConfigError, match="before it is opened"):
            OpenTelemetry().instrument(app)


def tick(source: Literal["code", "stored"], name: str, verdict: TickVerdict, late: float, many: int = 1) -> TickDecided:
    return TickDecided(schedule=name, task="send", source=source, verdict=verdict, tick=0.0, late=late, count=many)


async def page_of_a_day() -> str:
    """What Prometheus gets after every kind of thing has happened."""
    app = App("memory://")

    @app.task(name="send", queue="mail", retry=Retry.fixed(2, 0.0))
    async def send(fails: int) -> None:
        if current().attempt <= fails:
            raise ValueError

    async with app:
        loop, admin = asyncio.get_running_loop(), app.admin

        def count() -> Future[Sequence[QueueStats]]:
            return asyncio.run_coroutine_threadsafe(admin.stats(["mail", "later"]), loop)

        ends: list[JobFinished] = []
        app.events.subscribe(JobFinished, ends.append)
        await send.defer(0)
        await lose(app, 1, "mail")
        async with app.working() as worker:
            page = MetricsPage(app.events, worker.look, count)
            for fails in (0, 1, 2):
                await send.defer(fails)
            await send.options(delay=3600, queue="later").defer(0)
            fields: JobFields = {"id": "1", "task": "send", "queue": "mail", "attempt": 1}
            for event in (
                LeaseLost(**fields),
                JobRepeated(**fields),
                SettlementRefused(**fields),
                JobVetoed(task="send", reason=""),
                JobDropped(task="send", reason=""),
                JobsSpooled(jobs=3),
                JobsRecovered(jobs=2, refused=1),
                DeadLettersDropped(queue="mail", jobs=1, size=100),
                LimitGranted(limit="api", wait=0.5),
                LimitRefused(limit="api", after=30.0),
                *[PlaceTaken(limit="smtp")] * 3,
                PlaceLeft(limit="smtp", held=2.0),
                PlaceLost(limit="smtp"),
                *(tick("stored", f"customer-{n}", "fired", 0.5) for n in range(3)),
                tick("code", "nightly", "queued", 1.0),
                tick("code", "nightly", "missed", 3600.0, 7),
                JobsFetched(jobs=0, seconds=0.0),
                BrokerLost(error=ConnectionError()),
                LoopStalled(seconds=3.0, id="1", task="send", stack=""),
                MemoryGrown(jobs=10_000, grown=50 << 20, memory=200 << 20),
                JobFinished(**fields, end="returned", run=0.0, peak=100 << 20),
            ):
                app.events.emit(event)
            await wait_until(lambda: len(ends) == 5 and not worker.look().held)
            return (await asyncio.to_thread(page)).text.decode()


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values, by the labels' names."""
    return {
        (sample.name, *(text for label, text in sorted(sample.labels.items()) if not label.startswith("otel"))): (
            sample.value
        )
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_prometheus_reads_what_happened() -> None:
    found = samples(await page_of_a_day())
    assert found["taskq_jobs_finished_total", "mail", "returned", "send"] == 4.0
    assert found["taskq_jobs_finished_total", "mail", "failed", "send"] == 1.0
    assert found["taskq_jobs_again_total", "mail", "yes", "send"] == 2.0
    assert found["taskq_jobs_rescued_total", "mail", "send"] == 1.0
    assert found["taskq_jobs_dropped_total", "send"] == 1.0
    assert (found[("taskq_jobs_spooled_total",)], found[("taskq_jobs_recovered_total",)]) == (3.0, 2.0)
    assert found["taskq_job_wait_seconds_count", "mail", "send"] == 6.0
    assert found["taskq_job_run_seconds_count", "mail", "send"] == 6.0
    assert found["taskq_job_memory_bytes_sum", "mail", "send"] == 100 << 20
    assert found["taskq_memory_bytes",] > 1 << 20
    assert found["taskq_memory_growths_total",] == 1.0
    assert found["taskq_slots",] == 100.0
    assert found["taskq_limit_granted_total", "api"] == found["taskq_limit_refused_total", "api"] == 1.0
    assert (found["taskq_limit_wait_seconds_sum", "api"], found["taskq_limit_hold_seconds_sum", "smtp"]) == (0.5, 2.0)
    assert (found["taskq_limit_lost_total", "smtp"], found["taskq_limit_held", "smtp"]) == (1.0, 2.0)
    # Labels are schedule, task, verdict; those made at run time count together.
    assert found["taskq_schedule_ticks_total", "", "send", "fired"] == 3.0
    assert found["taskq_schedule_ticks_total", "nightly", "send", "queued"] == 1.0
    assert found["taskq_schedule_ticks_total", "nightly", "send", "missed"] == 7.0
    assert found["taskq_schedule_lateness_seconds_sum", "", "send"] == 1.5
    assert found["taskq_schedule_lateness_seconds_sum", "nightly", "send"] == 1.0
    assert found["taskq_fetch_jobs_sum",] == 6.0
    assert found["taskq_settle_jobs_sum",] == 6.0
    assert found["taskq_queue_jobs", "later", "later"] == 1.0
    assert found["taskq_queue_jobs", "mail", "dead"] == 1.0
    assert found["taskq_dead_lapsed_total", "mail"] == 0.0


async def test_a_broker_that_does_not_answer_costs_the_page_its_queues_alone() -> None:
    app = App("memory://")

    def count() -> Future[Sequence[QueueStats]]:
        failed: Future[Sequence[QueueStats]] = Future()
        failed.set_exception(ConnectionError())
        return failed

    async with app, app.working() as worker:
        found = samples(MetricsPage(app.events, worker.look, count)().text.decode())
    assert ("taskq_slots_used",) in found
    assert not any(name.startswith("taskq_queue") for name, *_ in found)


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "prometheus-alerts.yaml", "keda-scaledobject.yaml"])
async def test_what_is_shipped_for_operators_names_existing_metrics_and_labels(file: str) -> None:
    text = (DEPLOY / file).read_text(encoding="utf-8")
    if file.endswith("json"):
        json.loads(text)
    named = set(re.findall(r"\b(?:taskq|messaging)_[a-z_]+", text))
    there = set(re.findall(r"\b(?:taskq|messaging)_[a-z_]+", await page_of_a_day()))
    assert named
    assert named - there == set()


async def test_every_instrument_is_told() -> None:
    page = await page_of_a_day()
    assert [name for name in NAMES if re.sub(r"\W", "_", name) not in page] == []
