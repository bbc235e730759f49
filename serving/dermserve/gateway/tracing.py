"""Spans of requests and their stages: the port, and nothing behind it unless OpenTelemetry is asked for.

Asked for by its own environment (OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, and not
OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none), and there with the extra `tracing`. Otherwise nothing is imported.
"""

import contextlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog

_log = structlog.get_logger(__name__)

_MODULES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing(Protocol):
    """The port through which stages say when they begin and end."""

    def parent(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Any:
        """Read the caller's W3C trace context; None when there is none."""
        ...

    def span(
        self, name: str, *, kind: str = "INTERNAL", parent: Any = None, **attributes: str
    ) -> contextlib.AbstractContextManager[Any]:
        """Open a span while the block lasts, below a parent or else the current one. An exception marks it failed."""
        ...

    def end(self, *, code: str, **attributes: Any) -> None:
        """Say how the request of the current span ended."""
        ...

    def trace_id(self) -> str | None:
        """Return the current trace's, 32 hexadecimal digits."""
        ...

    def outgoing(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that tell a server of the current span."""
        ...

    def close(self) -> None:
        """Send what has not been sent; may block for some seconds."""
        ...


class NoTracing:
    """Tracing that is off."""

    _nothing = contextlib.nullcontext()

    def parent(self, metadata: "Iterable[tuple[str, str | bytes]]") -> None:
        """See Tracing."""

    def span(
        self, name: str, *, kind: str = "INTERNAL", parent: Any = None, **attributes: str
    ) -> contextlib.AbstractContextManager[Any]:
        """See Tracing."""
        return self._nothing

    def end(self, *, code: str, **attributes: Any) -> None:
        """See Tracing."""

    def trace_id(self) -> None:
        """See Tracing."""

    def outgoing(self) -> tuple[tuple[str, str], ...]:
        """See Tracing."""
        return ()

    def close(self) -> None:
        """See Tracing."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether OpenTelemetry's environment asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    asked = any(environment.get(name) for name in _ENDPOINTS)
    return asked and environment.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"


def is_installed() -> bool:
    """Tell whether the extra `tracing` is there."""
    with contextlib.suppress(ModuleNotFoundError):
        return all(importlib.util.find_spec(name) for name in _MODULES)
    return False


def open_tracing(environment: Mapping[str, str]) -> Tracing:
    """Make the Tracing that the environment asks for."""
    if not is_wanted(environment):
        return NoTracing()
    if not is_installed():
        _log.warning("no traces: the extra is not installed", remedy="pip install 'dermserve[tracing]'")
        return NoTracing()
    from dermserve.gateway.otel import OtelTracing

    return OtelTracing(environment)
