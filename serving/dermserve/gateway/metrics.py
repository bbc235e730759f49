"""What Prometheus is told: counters and histograms that requests feed, and gauges read from the state when it asks.

No label's values come from a caller: a model that is not configured is "other", and a version is one that answered. The
metrics are served by prometheus-client in a thread of its own, so they answer however full the gateway is.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.registry import Collector

from dermserve.gateway.errors import GatewayError
from dermserve.gateway.plan import Outcome
from dermserve.gateway.ports import ListenError
from dermserve.v1 import classifier_pb2

_T = TypeVar("_T", Counter, Histogram)

NAMESPACE = "dermserve_gateway"
OTHER = "other"
"""Label of every model that is not configured."""
_FINE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COARSE = _FINE[3:]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a timestamp beside each counter, which nobody reads


class Metrics:
    """Everything that requests feed."""

    def __init__(self, models: Collection[str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._models = frozenset(models)
        counter = functools.partial(_labelled, Counter, namespace=NAMESPACE, registry=self.registry)
        histogram = functools.partial(_labelled, Histogram, namespace=NAMESPACE, registry=self.registry)
        self._requests = counter(
            "requests",
            "Requests and photos of streams that ended, by how. CANCELLED: the caller gave up.",
            ["method", "model", "version", "verdict", "code"],
        )
        self._refusals = counter(
            "refusals", "Those of them that ended in an error, by its reason.", ["method", "model", "reason"]
        )
        self._streams = counter("streams", "ClassifyStream calls that ended; their photos are requests.", ["code"])
        self._seconds = histogram(
            "request_duration_seconds",
            "From arrival to answer or error.",
            ["method", "model", "code"],
            buckets=_COARSE,
        )
        self._stages = histogram(
            "stage_duration_seconds",
            "Of each stage of a request that came so far; admit is the wait for its turn.",
            ["stage", "model"],
            buckets=_FINE,
        )
        self._asked = counter("views_asked", "Views that answers called for.", ["model"])
        self._used = counter("views_used", "Views that answers are made of.", ["model"])
        self._dropped = counter("views_dropped", "Views left out for want of time.", ["model"])
        self._saved = counter("views_saved", "Views that ADAPTIVE did not need.", ["model"])
        self._adaptive = counter(
            "adaptive_answers", "ADAPTIVE answers; stopped early, before the last view, or late.", ["model", "stopped"]
        )
        self._agreement = counter(
            "adaptive_agreement",
            "FULL answers of models with a fitted margin: whether ADAPTIVE would have put the same class first.",
            ["model", "agreed"],
        )

    def request(self, method: str, model: str, *, ended: object, seconds: float) -> None:
        """Count a request or a stream's photo that ended in an answer, an error, or by its caller (None)."""
        model, version, verdict = self._bounded(model), "", ""
        if isinstance(ended, classifier_pb2.ClassifyResponse):
            version, verdict = str(ended.version), classifier_pb2.Verdict.Name(ended.verdict)
            self._asked(model).inc(ended.views_asked)
            self._used(model).inc(ended.views_used)
            self._dropped(model).inc(ended.views_asked - ended.views_used)
        code = _code(ended)
        if isinstance(ended, GatewayError):
            self._refusals(method, model, ended.reason).inc()
        self._requests(method, model, version, verdict, code).inc()
        self._seconds(method, model, code).observe(seconds)

    def stream(self, ended: object) -> None:
        """Count a ClassifyStream call that ended in an answer, an error, or by its caller (None)."""
        self._streams(_code(ended)).inc()

    def stage(self, name: str, model: str, seconds: float) -> None:
        """Note how long a stage of a request for a configured model took."""
        self._stages(name, model).observe(seconds)

    def outcome(self, model: str, outcome: Outcome) -> None:
        """Note what the plan of an answer of a configured model came to."""
        if outcome.saved is not None:
            self._saved(model).inc(outcome.saved)
            self._adaptive(model, "early" if outcome.saved else "late").inc()
        if outcome.agreed is not None:
            self._agreement(model, str(outcome.agreed).lower()).inc()

    def _bounded(self, model: str) -> str:
        return model if not model or model in self._models else OTHER


@contextlib.asynccontextmanager
async def serving_metrics(registry: Collector, listen: str) -> AsyncIterator[str]:
    """Serve a registry over plain HTTP on HOST:PORT while the block lasts; gives the address, its port resolved.

    Raises:
        ListenError: the address is taken or wrong.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError) as error:
        raise ListenError(
            f"can't serve metrics on {listen}: is it taken, or not an address of this machine?"
        ) from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)  # waits for its thread, which looks up twice a second
        server.server_close()


def _labelled(kind: type[_T], *definition: Any, **options: Any) -> Callable[..., _T]:
    """Define a metric; gives what finds the one of so many labels, whose sets are bounded."""
    return functools.cache(kind(*definition, **options).labels)


def _code(ended: object) -> str:
    if ended is None:
        return "CANCELLED"
    return ended.status.name if isinstance(ended, GatewayError) else "OK"
