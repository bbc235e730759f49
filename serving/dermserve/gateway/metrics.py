"""Metrics for Prometheus: counters and histograms that requests feed, and gauges read from the state at each scrape.

No label's values come from a caller: a model that is not configured is "other", and a version is one that answered. The
metrics are served by prometheus-client in a thread of its own, so they answer however full the gateway is.
"""

import asyncio
import contextlib
import functools
import importlib.metadata
import itertools
import platform
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermserve.gateway.admission import Admission
from dermserve.gateway.batching import Batching
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.certificates import TlsFiles
from dermserve.gateway.drift import Drift
from dermserve.gateway.errors import GatewayError, ListenError
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.photos import Workers
from dermserve.gateway.plan import Outcome
from dermserve.v1 import classifier_pb2

_T = TypeVar("_T", Counter, Gauge, Histogram)

NAMESPACE = "dermserve_gateway"
OTHER = "other"
"""Label of every model that is not configured."""
_FINE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COARSE = _FINE[3:]

_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily
_READ: dict[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str]] = {
    "build_info": (_GAUGE, "version python grpc", "Always 1; the labels have the versions that run."),
    "requests_in_progress": (_GAUGE, "method model", "Admitted requests in progress; each photo of a stream is one."),
    "queue_length": (_GAUGE, "method model", "Requests in the queue; each photo of a stream is one."),
    "held_bytes": (_GAUGE, "", "Bytes of the photos of requests in the queue or in progress."),
    "model_server_up": (_GAUGE, "model_server", "1 if the model server answered the last poll or call."),
    "model_server_calls_in_flight": (_GAUGE, "model_server", "Predict calls in flight to the model server."),
    "model_server_calls_waiting": (_GAUGE, "", "Predict calls that wait for a free slot of any model server."),
    "model_server_calls": (_COUNTER, "model_server", "Predict calls that the model server answered."),
    "model_server_views": (_COUNTER, "model_server", "Views in the Predict calls that the model server answered."),
    "model_server_ejections": (_COUNTER, "model_server", "Times the model server was ejected: it did not answer."),
    "model_server_retries": (
        _COUNTER,
        "model_server",
        "Predict calls that it failed and that were retried on another.",
    ),
    "model_ready": (_GAUGE, "model", "1 if some version of the model can answer."),
    "model_version_ready": (_GAUGE, "model version", "1 if the version can answer."),
    "model_label_version": (_GAUGE, "model label", "Version that the label points to."),
    "catalog_poll_failures": (_COUNTER, "", "Polls of the models that ended in an unexpected error."),
    "drift_window_answers": (_GAUGE, "model version", "Answers in the window of the drift metrics."),
    "drift_confidence_mean": (_GAUGE, "model version", "Mean top probability of the answers in the window."),
    "drift_psi": (_GAUGE, "model version of", "Population stability index of the window against the card's profile."),
    "certificate_expiry_timestamp_seconds": (
        _GAUGE,
        "use",
        "Time at which the first certificate loaded for a setting, or shown by a model server, expires.",
    ),
    "decoders_replaced": (_COUNTER, "", "Decoder threads replaced because they were stuck."),
}
"""What is read at each scrape, by name: its kind, labels and help."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # an unused timestamp beside each counter


class Metrics:
    """Everything that requests feed."""

    def __init__(self, models: Collection[str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._models = frozenset(models)
        counter = functools.partial(self._define, Counter)
        histogram = functools.partial(self._define, Histogram)
        self._requests = counter(
            "requests",
            "Requests that ended; each photo of a stream is one. Code CANCELLED: the caller gave up.",
            "method model version verdict risk_level code",
        )
        self._refusals = counter("refusals", "Requests that ended in an error, by its reason.", "method model reason")
        self._streams = counter("streams", "ClassifyStream calls that ended, by status.", "code")
        self._seconds = histogram(
            "request_duration_seconds",
            "Time from a request's arrival to its answer or error.",
            "method model code",
            buckets=_COARSE,
        )
        self.stage = histogram(
            "stage_duration_seconds",
            "Time in each stage that a request reached; admit is the time in the queue.",
            "stage model",
            buckets=_FINE,
        )
        self._asked = counter("views_asked", "Views that the TTA modes of answered requests call for.", "model")
        self._used = counter("views_used", "Views that answers are the mean of.", "model")
        self._dropped = counter("views_dropped", "Views left out because the deadline was too short.", "model")
        self._saved = counter("views_saved", "Views that ADAPTIVE did not need.", "model")
        self._adaptive = counter(
            "adaptive_answers", "ADAPTIVE answers; stopped=early: with fewer than all views.", "model stopped"
        )
        self._agreement = counter(
            "adaptive_agreement",
            "FULL answers of models with an adaptive margin; agreed=true: ADAPTIVE would give the same top class.",
            "model agreed",
        )

        gauge = functools.partial(self._define, Gauge)
        self._shares = gauge("canary_share", "Share of the callers that gets a model's canary.", "model")
        self._routed = counter(
            "canary_requests",
            "Requests that were sent to a label while there was a canary, by how they ended: ok or failed.",
            "model label ended",
        )
        self._routed_seconds = histogram(
            "canary_request_duration_seconds",
            "Of those that were answered, from admission to answer.",
            "model label",
            buckets=_COARSE,
        )
        self._compared = counter(
            "canary_comparisons",
            "Answers of a canary whose photo the stable version was asked about, too: whether the top class agreed.",
            "model result",
        )

    def _define(self, kind: type[_T], name: str, text: str, labels: str, **options: Any) -> Callable[..., _T]:
        """Define a metric; gives what finds the one of so many labels, whose sets are bounded."""
        metric = kind(name, text, labels.split(), namespace=NAMESPACE, registry=self.registry, **options)
        return functools.cache(metric.labels)

    def canary_share(self, model: str, share: float) -> None:
        """Show the share of the callers that gets a model's canary."""
        self._shares(model).set(share)

    def compared(self, model: str, result: str) -> None:
        """Count a comparison of the canary with the stable version: agreed, differed or failed."""
        self._compared(model, result).inc()

    def routed(self, model: str, label: str, *, failed: bool, seconds: float) -> None:
        """Count a request that was sent to a label because it named none."""
        self._routed(model, label, "failed" if failed else "ok").inc()
        if not failed:
            self._routed_seconds(model, label).observe(seconds)

    def request(self, method: str, model: str, *, ended: object, seconds: float) -> None:
        """Count a request or a stream's photo that ended in an answer, an error, or by its caller (None)."""
        model, version, verdict, level = model if not model or model in self._models else OTHER, "", "", ""
        if isinstance(ended, classifier_pb2.ClassifyResponse):
            version, verdict = str(ended.version), classifier_pb2.Verdict.Name(ended.verdict)
            level = classifier_pb2.RiskLevel.Name(ended.malignancy.level)
            self._asked(model).inc(ended.views_asked)
            self._used(model).inc(ended.views_used)
            self._dropped(model).inc(ended.views_asked - ended.views_used)
        code = _code(ended)
        if isinstance(ended, GatewayError):
            self._refusals(method, model, ended.reason).inc()
        self._requests(method, model, version, verdict, level, code).inc()
        self._seconds(method, model, code).observe(seconds)

    def stream(self, ended: object) -> None:
        """Count a ClassifyStream call that ended in an answer, an error, or by its caller (None)."""
        self._streams(_code(ended)).inc()

    def outcome(self, model: str, outcome: Outcome) -> None:
        """Note what the plan of an answer of a configured model came to."""
        if outcome.saved is not None:
            self._saved(model).inc(outcome.saved)
            self._adaptive(model, "early" if outcome.saved else "late").inc()
        if outcome.agreed is not None:
            self._agreement(model, str(outcome.agreed).lower()).inc()


@dataclass(eq=False, frozen=True, slots=True, kw_only=True)
class Snapshot(Collector):
    """State that another thread may read: numbers, and values that are replaced whole."""

    admission: Admission
    servers: ModelServers
    predictor: Batching
    catalog: Catalog
    workers: Workers
    drift: Drift | None
    tls: Collection[TlsFiles]
    """What is loaded of certificates."""

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        rows = {
            name: kind(f"{NAMESPACE}_{name}", text, labels=labels.split())
            for name, (kind, labels, text) in _READ.items()
        }
        for name, labels, value in self._read():
            rows[name].add_metric([str(label) for label in labels], float(value))
        return iter(rows.values())

    def _read(self) -> Iterator[tuple[str, Sequence[object], float]]:
        yield "build_info", (importlib.metadata.version("dermserve"), platform.python_version(), grpc.__version__), 1
        for key, queue in self.admission.queues.items():
            yield "requests_in_progress", key, queue.working
            yield "queue_length", key, queue.waiting
        yield "held_bytes", (), self.admission.held.held
        yield "model_server_calls_waiting", (), self.predictor.waiting
        for server in self.servers.all:
            yield "model_server_up", [server.address], server.alive
            yield "model_server_calls_in_flight", [server.address], server.in_flight
            yield "model_server_calls", [server.address], server.calls
            yield "model_server_views", [server.address], server.views
            yield "model_server_ejections", [server.address], server.ejections
            yield "model_server_retries", [server.address], server.retried
        for model in self.catalog.models.values():
            yield "model_ready", [model.name], model.ready
            for known in model.versions:
                yield "model_version_ready", [model.name, known.number], known.ready
            for label, number in model.labels.items():
                yield "model_label_version", [model.name, label], number
        yield "catalog_poll_failures", (), self.catalog.failed_polls
        for reading in self.drift.read() if self.drift else ():
            version = [reading.model, reading.version]
            yield "drift_window_answers", version, reading.answers
            yield "drift_confidence_mean", version, reading.confidence
            for name, value in reading.psi.items():
                yield "drift_psi", [*version, name], value
        for use, ends in itertools.chain.from_iterable(files.expiry.items() for files in self.tls):
            yield "certificate_expiry_timestamp_seconds", [use], ends
        shown = [server.certificate_expiry for server in self.servers.all if server.certificate_expiry is not None]
        if shown:
            yield "certificate_expiry_timestamp_seconds", ["model_server"], min(shown)
        yield "decoders_replaced", (), self.workers.replaced


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


def _code(ended: object) -> str:
    if ended is None:
        return "CANCELLED"
    return ended.status.name if isinstance(ended, GatewayError) else "OK"
