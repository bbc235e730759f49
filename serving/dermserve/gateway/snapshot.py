"""Gauges that are read from the gateway's state at the moment Prometheus asks; keeping them costs requests nothing."""

import importlib.metadata
import pathlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermserve.gateway.admission import Admission
from dermserve.gateway.backends import Backends
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.drift import Drift
from dermserve.gateway.metrics import NAMESPACE
from dermserve.gateway.workers import Workers


@dataclass(eq=False, frozen=True, slots=True, kw_only=True)
class Snapshot(Collector):
    """What has state, and can be looked at from another thread: it holds numbers and values replaced whole."""

    admission: Admission
    backends: Backends
    catalog: Catalog
    workers: Workers
    drift: Drift | None
    certificates: Mapping[str, pathlib.Path]
    """PEM files by what they are for."""

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield _info()
        yield from self._admission()
        yield from self._backends()
        yield from self._models()
        yield from self._drift()
        yield from self._certificates()
        replaced = "Decoder threads given up because they were stuck."
        yield CounterMetricFamily(f"{NAMESPACE}_decoders_replaced", replaced, self.workers.replaced)

    def _admission(self) -> Iterator[Metric]:
        passing = _gauge("requests_in_progress", "Requests and streams' photos worked on.", "method", "model")
        waiting = _gauge("queue_length", "Requests and streams' photos that wait for their turn.", "method", "model")
        for key, gate in self.admission.gates.items():
            passing.add_metric(key, gate.passing)
            waiting.add_metric(key, gate.waiting)
        yield from (passing, waiting)

    def _backends(self) -> Iterator[Metric]:
        up = _gauge("backend_up", "Whether a model server answered when last asked.", "backend")
        calls = _gauge("backend_calls_in_flight", "Predict calls at a model server.", "backend")
        waiting = _gauge("backend_calls_waiting", "Predict calls that wait for a place at it.", "backend")
        answered = _counter("backend_calls", "Predict calls that it answered.", "backend")
        views = _counter("backend_views", "Views in these.", "backend")
        ejected = _counter("backend_ejections", "Times a model server was found not to answer.", "backend")
        passed = _counter("backend_passed_over", "Requests that it failed and another was asked for.", "backend")
        for backend in self.backends.all:
            label = [backend.address]
            up.add_metric(label, backend.alive)
            calls.add_metric(label, backend.gate.passing)
            waiting.add_metric(label, backend.gate.waiting)
            answered.add_metric(label, backend.calls)
            views.add_metric(label, backend.views)
            ejected.add_metric(label, backend.ejections)
            passed.add_metric(label, backend.passed_over)
        yield from (up, calls, waiting, answered, views, ejected, passed)

    def _models(self) -> Iterator[Metric]:
        ready = _gauge("model_ready", "Whether some version of a model can answer.", "model")
        version = _gauge("model_version_ready", "Whether a version that is seen can answer.", "model", "version")
        labelled = _gauge("model_label_version", "Version that a label points at.", "model", "label")
        for model in self.catalog.models.values():
            ready.add_metric([model.name], model.ready)
            for known in model.versions:
                version.add_metric([model.name, str(known.number)], known.ready)
            for label, number in model.labels.items():
                labelled.add_metric([model.name, label], number)
        yield from (ready, version, labelled)

    def _drift(self) -> Iterator[Metric]:
        window = _gauge("drift_window_answers", "Answers that drift is judged by.", "model", "version")
        confidence = _gauge("drift_confidence_mean", "Mean top probability of these.", "model", "version")
        psi = _gauge("drift_psi", "PSI of these against the card's profile.", "model", "version", "of")
        for reading in self.drift.read() if self.drift else ():
            labels = [reading.model, str(reading.version)]
            window.add_metric(labels, reading.answers)
            confidence.add_metric(labels, reading.confidence)
            for name, value in reading.psi.items():
                psi.add_metric([*labels, name], value)
        yield from (window, confidence, psi)

    def _certificates(self) -> Iterator[Metric]:
        expiry = _gauge("certificate_expiry_timestamp_seconds", "When a certificate's file ends to be valid.", "use")
        if self.certificates:
            from dermserve.gateway.certificates import read_expiry  # only then: it brings 10 MB along
        for use, file in self.certificates.items():
            if (ends := read_expiry(file)) is not None:
                expiry.add_metric([use], ends)
        yield expiry


def _info() -> Metric:
    info = _gauge("build_info", "1; what runs.", "version", "python", "grpc")
    info.add_metric([importlib.metadata.version("dermserve"), platform.python_version(), grpc.__version__], 1)
    return info


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{NAMESPACE}_{name}", text, labels=labels)
