"""Spans of requests and their stages by OpenTelemetry; off, and not imported, unless configured.

OpenTelemetry's own variables turn them on (OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, without
OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none), if the extra `tracing` is installed.
opentelemetry-instrumentation-grpc makes the spans of RPCs and propagates the trace context.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

_log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _nothing() -> None:
    """End a span that there is not."""


class Tracing:
    """Tracing that does nothing; `_OpenTelemetry` is the real one."""

    server_interceptors: Sequence[Any] = ()
    client_interceptors: Sequence[Any] = ()

    def begin(self, name: str) -> Callable[[], None]:
        """Open a span below the current one; return what ends it."""
        return _nothing

    def fail(self, reason: str) -> None:
        """Mark the current span failed."""

    def trace_id(self) -> str | None:
        """Return the current trace id, 32 hexadecimal digits; None without a trace."""
        return None

    def close(self) -> None:
        """Send the remaining spans; may block for some seconds."""


class _OpenTelemetry(Tracing):
    """A thread of the SDK sends the spans; if the collector does not answer, they are dropped."""

    def __init__(self) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation import grpc as instrumentation
        from opentelemetry.instrumentation.grpc import filters
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "dermserve-gateway"}).merge(OTELResourceDetector().detect())
        self._trace = trace
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        # Exceptions are not recorded: their messages may quote a caller.
        span = self._provider.get_tracer("dermserve.gateway").start_as_current_span
        self._open = functools.partial(span, record_exception=False, set_status_on_exception=False)
        propagate.set_global_textmap(TraceContextTextMapPropagator())
        ours, predict = filters.service_prefix("dermserve."), filters.method_name("Predict")
        self.server_interceptors = [instrumentation.aio_server_interceptor(self._provider, ours)]  # type: ignore[no-untyped-call]
        self.client_interceptors = instrumentation.aio_client_interceptors(self._provider, predict)  # type: ignore[no-untyped-call]

    def begin(self, name: str) -> Callable[[], None]:
        opened = contextlib.ExitStack()
        opened.enter_context(self._open(name))
        return opened.close

    def fail(self, reason: str) -> None:
        self._trace.get_current_span().set_status(self._trace.StatusCode.ERROR, reason)

    def trace_id(self) -> str | None:
        context = self._trace.get_current_span().get_span_context()
        return self._trace.format_trace_id(context.trace_id) if context.is_valid else None

    def close(self) -> None:
        self._provider.shutdown()


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry's variables turn traces on."""
    enabled = environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
    asked = any(environment.get(name) for name in _ENDPOINTS)
    return enabled and asked and environment.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"


def open_tracing(environment: Mapping[str, str]) -> Tracing:
    """Make the tracing that the environment configures."""
    try:
        return _OpenTelemetry() if is_wanted(environment) else Tracing()
    except ModuleNotFoundError:
        _log.warning("tracing_not_installed", remedy="pip install '.[tracing]' in a clone")
        return Tracing()
