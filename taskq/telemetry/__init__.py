"""Metrics and traces by OpenTelemetry; needs the extra ``otel``."""

from taskq.telemetry.instrument import OpenTelemetry

__all__ = ["OpenTelemetry"]
