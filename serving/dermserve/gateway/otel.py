"""Tracing by the OpenTelemetry SDK, set up by its own OTEL_ environment; imported only when traces are asked for."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_NAME = "dermserve-gateway"
_HEADERS = frozenset({"traceparent", "tracestate"})


class OtelTracing:
    """See Tracing. Spans leave from a thread of the SDK's; when the collector is away, they are dropped."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": _NAME})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dermserve.gateway")
        self._propagator = TraceContextTextMapPropagator()

    def parent(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Any:
        """See Tracing."""
        carrier = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
        return self._propagator.extract(carrier) if carrier else None

    @contextlib.contextmanager
    def span(self, name: str, *, kind: str = "INTERNAL", parent: Any = None, **attributes: str) -> Iterator[None]:
        """See Tracing."""
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=trace.SpanKind[kind],
            attributes=attributes,
            record_exception=False,  # what it says may quote a caller: only its kind is sent
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise

    def end(self, *, code: str, **attributes: Any) -> None:
        """See Tracing."""
        span = trace.get_current_span()
        span.set_attributes({"rpc.response.status_code": code, **attributes})
        if code != "OK":
            span.set_status(trace.StatusCode.ERROR, code)

    def trace_id(self) -> str | None:
        """See Tracing."""
        context = trace.get_current_span().get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    def outgoing(self) -> tuple[tuple[str, str], ...]:
        """See Tracing."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())

    def close(self) -> None:
        """See Tracing."""
        self._provider.shutdown()
