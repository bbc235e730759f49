"""Metrics for Prometheus: counters and histograms that requests feed, and gauges read from the state at each scrape.

No label has a value from a caller: a model that is not configured is "other", and a version is one that answered.
prometheus-client serves the metrics in its own thread, so they answer under overload, too.
"""

import functools
import math
import platform
from bisect import bisect_right
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermserve.gateway.answer import GATEWAY_VERSION
from dermserve.gateway.certificates import TlsFiles
from dermserve.gateway.plan import count_saved, would_agree
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import Measures
from dermserve.v1 import card_pb2
from dermserve.v1.classifier_pb2 import ClassifyResponse

if TYPE_CHECKING:
    from dermserve.gateway.classify import Classifier
    from dermserve.gateway.rpc import Rpc

_T = TypeVar("_T", Counter, Gauge, Histogram)

_WINDOW = 1000  # answers of each version in the window, as bins
_LEAST = 100  # with fewer answers, chance alone would look like drift
_LEAST_SHARE = 1e-3  # share of an empty bin, which would make the index infinite
_VERSIONS = 16
_COMPARED = ("classes", "confidence", "brightness", "sharpness")
_Answer: TypeAlias = tuple[float, list[int]]

NAMESPACE = "dermserve_gateway"
OTHER = "other"
"""Label value of every model that is not configured."""
_FINE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # an unused timestamp beside each counter


class Metrics:
    """Counters and histograms that requests feed; a photo of a stream counts as a request."""

    def __init__(self, models: Collection[str]) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._models = frozenset(models)
        counter, gauge = functools.partial(self._define, Counter), functools.partial(self._define, Gauge)
        fine = functools.partial(self._define, Histogram, buckets=_FINE)
        coarse = functools.partial(self._define, Histogram, buckets=_FINE[3:])
        self._requests = counter("requests", "method model version verdict risk_level code", "Requests that ended.")
        self._refusals = counter("refusals", "method model reason", "Requests that ended in an error, by its reason.")
        self._streams = counter("streams", "code", "ClassifyStream calls that ended, by status.")
        self._seconds = coarse("request_duration_seconds", "method model code", "Time from arrival to answer or error.")
        self._stage = fine("stage_duration_seconds", "stage model", "Time in a stage; admit is the queue.")
        self._asked = counter("views_asked", "model", "Views that the TTA modes of answered requests call for.")
        self._used = counter("views_used", "model", "Views that answers are the mean of.")
        self._saved = counter("views_saved", "model", "Views that ADAPTIVE did not need.")
        self._adaptive = counter("adaptive_answers", "model stopped", "ADAPTIVE answers; early: with fewer views.")
        self._agreement = counter("adaptive_agreement", "model agreed", "FULL answers: would ADAPTIVE say the same?")
        self.canary_share = gauge("canary_share", "model", "Share of the callers that gets a model's canary.")
        self._routed = counter("canary_requests", "model label ended", "Requests routed to a label, as they ended.")
        self._routed_seconds = coarse("canary_request_duration_seconds", "model label", "Of those, from admission.")
        self.compared = counter("canary_comparisons", "model result", "Canary against stable version.")
        self.drift = Drift()

    def _define(self, kind: type[_T], name: str, labels: str, text: str, **options: Any) -> Callable[..., _T]:
        metric = kind(name, text, labels.split(), namespace=NAMESPACE, registry=self.registry, **options)
        return functools.cache(metric.labels)  # the number of different labels is bounded

    def known(self, model: str | None) -> str:
        """Return a name from a caller if it is that of a model; empty for none."""
        return model if model in self._models else OTHER if model else ""

    def routed(self, model: str, label: str, *, failed: bool, seconds: float) -> None:
        """Count a request without version and label that was sent to a label."""
        self._routed(model, label, "failed" if failed else "ok").inc()
        if not failed:
            self._routed_seconds(model, label).observe(seconds)

    def ended(self, rpc: "Rpc", code: str, facts: Mapping[str, Any], *, seconds: float, reason: str | None) -> None:
        """Count an RPC or photo that ended, with the facts of its answer or the reason of its error."""
        if rpc.model is None:
            self._streams(code).inc()
            return
        model = self.known(rpc.model)
        if reason is not None:
            self._refusals(rpc.method, model, reason).inc()
        found = (facts.get("version", ""), facts.get("verdict", ""), facts.get("risk_level", ""))
        self._requests(rpc.method, model, *found, code).inc()
        self._seconds(rpc.method, model, code).observe(seconds)
        for stage, spent in rpc.spent.items():
            self._stage(stage, model).observe(spent)

    def answered(
        self, answer: ClassifyResponse, mode: int, *, card: card_pb2.Card, scores: Scores, measures: Measures
    ) -> None:
        """Count the views of an answer, how its plan ended, and what shows drift."""
        model = answer.model
        self._asked(model).inc(answer.views_asked)
        self._used(model).inc(answer.views_used)
        if (saved := count_saved(mode, answer.views_asked, card)) is not None:
            self._saved(model).inc(saved)
            self._adaptive(model, "early" if saved else "late").inc()
        if (agreed := would_agree(mode, scores, card)) is not None:
            self._agreement(model, str(agreed).lower()).inc()
        if card.HasField("profile"):
            first = scores.probabilities[0]
            self.drift.note(model, answer.version, card=card, probabilities=first, measures=measures)


class Drift:
    """Compares photos and answers with those that a version was calibrated on: counts in a rolling window, no photo.

    Compared as population stability index (PSI): the sum over bins of (now - then) x ln(now / then). Below 0.1 is
    commonly read as stable, above 0.25 as changed. The window of a version holds its card, the edges of the bins and,
    for each answer, its top probability and the bin of each of _COMPARED.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], tuple[card_pb2.Card, list[list[float]], deque[_Answer]]] = {}

    def note(
        self, model: str, version: int, *, card: card_pb2.Card, probabilities: Sequence[float], measures: Measures
    ) -> None:
        """Record the measures and the answer of a photo's identity view, for a card that has a profile."""
        window = self._windows.get((model, version))
        if window is None or window[0] is not card:
            if len(self._windows) >= _VERSIONS:
                del self._windows[next(iter(self._windows))]
            window = card, [list(each.edges) for each in _histograms(card.profile)], deque(maxlen=_WINDOW)
        top = max(probabilities)
        bins = map(bisect_right, window[1], (top, measures.brightness, measures.sharpness))
        window[2].append((top, [list(probabilities).index(top), *bins]))
        self._windows[model, version] = window  # another thread reads none that is empty

    def read(self) -> Iterator[tuple[tuple[str, int], int, float, dict[str, float]]]:
        """For each model and version: answers in the window, their mean top probability, the index by what is compared.

        There is no index while there are too few answers. Callable from any thread.
        """
        for key, (card, _, window) in list(self._windows.items()):
            (tops, bins), psi = zip(*list(window), strict=True), dict[str, float]()
            if len(tops) >= _LEAST:
                shares = [card.profile.class_shares, *(each.shares for each in _histograms(card.profile))]
                psi = dict(zip(_COMPARED, map(_psi, shares, zip(*bins, strict=True)), strict=True))
            yield key, len(tops), sum(tops) / len(tops), psi


def _histograms(profile: card_pb2.Profile) -> tuple[card_pb2.Histogram, ...]:
    return profile.confidence, profile.brightness, profile.sharpness


def _psi(then: Sequence[float], bins: Sequence[int]) -> float:
    counts = Tally(bins)
    floored = [(max(share, _LEAST_SHARE), max(counts[at] / len(bins), _LEAST_SHARE)) for at, share in enumerate(then)]
    return sum((now - before) * math.log(now / before) for before, now in floored)


@dataclass(eq=False, frozen=True, slots=True)
class Snapshot(Collector):
    """Gauges that another thread reads at each scrape: numbers, and values that are replaced as a whole."""

    classifier: "Classifier"
    tls: Collection[TlsFiles | None]

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        versions = (GATEWAY_VERSION, platform.python_version(), grpc.__version__)
        yield _gauge("build_info", "version python grpc", "Always 1; its labels have what runs.", {versions: 1})
        queues = self.classifier.queues.items()
        working, waiting = ({key: getattr(each, of) for key, each in queues} for of in ("working", "waiting"))
        yield _gauge("requests_in_progress", "method model", "Admitted requests in progress.", working)
        yield _gauge("queue_length", "method model", "Requests in the queue.", waiting)
        yield _gauge("held_bytes", "", "Bytes of the photos of all those.", {(): self.classifier.held.held})
        yield from self._read_servers()
        yield from self._read_models()
        yield from self._read_drift()
        ends = {(use,): at for files in self.tls if files for use, at in files.expiry.items()}
        if shown := [at for each in self.classifier.servers.all if (at := each.certificate_expiry) is not None]:
            ends["model_server",] = min(shown)
        yield _gauge("certificate_expiry_timestamp_seconds", "use", "When the first certificate in use expires.", ends)
        replaced = {(): self.classifier.workers.replaced + self.classifier.large_photos.replaced}
        yield _counter("decoders_replaced", "", "Decoder threads that were stuck.", replaced)

    def _read_servers(self) -> Iterator[Metric]:
        waiting = {(): self.classifier.predictor.waiting}
        yield _gauge("model_server_calls_waiting", "", "Predict calls that wait for a free slot of any.", waiting)
        for family, name, attribute, text in _OF_SERVERS:
            rows = {(server.address,): getattr(server, attribute) for server in self.classifier.servers.all}
            yield family(f"model_server_{name}", "model_server", text, rows)

    def _read_models(self) -> Iterator[Metric]:
        models = self.classifier.catalog.models.values()
        ready = {(model.name,): model.ready for model in models}
        versions = {(model.name, each.number): each.ready for model in models for each in model.versions}
        labels = {(model.name, label): number for model in models for label, number in model.labels.items()}
        failed = {(): self.classifier.catalog.failed_polls}
        yield _gauge("model_ready", "model", "1 if some version of the model can answer.", ready)
        yield _gauge("model_version_ready", "model version", "1 if the version can answer.", versions)
        yield _gauge("model_label_version", "model label", "Version that the label points to.", labels)
        yield _counter("catalog_poll_failures", "", "Polls of the models that ended in an unexpected error.", failed)

    def _read_drift(self) -> Iterator[Metric]:
        found = list(self.classifier.metrics.drift.read())
        answers = {key: count for key, count, _, _ in found}
        means = {key: confidence for key, _, confidence, _ in found}
        psi = {(*key, of): value for key, _, _, values in found for of, value in values.items()}
        yield _gauge("drift_window_answers", "model version", "Answers in the window of the drift metrics.", answers)
        yield _gauge("drift_confidence_mean", "model version", "Mean top probability in the window.", means)
        yield _gauge("drift_psi", "model version of", "Population stability index of the window.", psi)


def _family(kind: Any, name: str, labels: str, text: str, rows: Mapping[Any, float]) -> Any:
    """Make a metric of values by the tuple of their labels' values."""
    family = kind(f"{NAMESPACE}_{name}", text, labels=labels.split())
    for values, number in rows.items():
        family.add_metric([str(value) for value in values], float(number))
    return family


_gauge = functools.partial(_family, GaugeMetricFamily)
_counter = functools.partial(_family, CounterMetricFamily)
_OF_SERVERS = (  # what, the metric's name, the model server's attribute, and its meaning
    (_gauge, "up", "alive", "1 if it answered the last poll or call."),
    (_gauge, "calls_in_flight", "in_flight", "Predict calls in flight to it."),
    (_counter, "calls", "calls", "Predict calls that it answered."),
    (_counter, "views", "views", "Views in the Predict calls that it answered."),
    (_counter, "ejections", "ejections", "Times it was ejected: no answer."),
    (_counter, "retries", "retried", "Predict calls retried on another."),
)


def serve_metrics(registry: Collector, listen: str) -> tuple[str, Callable[[], None]]:
    """Serve a registry over plain HTTP on HOST:PORT; return the address with its port, and a function that stops it.

    Raises:
        OSError: the address is taken or wrong.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, _ = prometheus_client.start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError) as error:
        raise OSError(f"can't serve metrics on {listen}: is the port taken, or not an address here?") from error

    def stop() -> None:
        server.shutdown()  # waits up to half a second for its thread
        server.server_close()

    return f"{host}:{server.server_port}", stop
