"""Read from the gateways' metrics whether they have a canary's share, and compare it with the stable version."""

import collections
import contextlib
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dermserve.models.lifecycle.errors import NoServerError
from dermserve.models.lifecycle.servers import every_address, looks

_PREFIX = "dermserve_gateway_canary_"
_PAUSE = 1.0
_Key = tuple[str, frozenset[tuple[str, str]]]  # series and labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much worse than the stable version a canary may be."""

    more_failed: float = 0.01  # share of its requests that fail, above the stable version's share
    slower: float = 1.5  # mean time of its requests, as a multiple of the stable version's
    disagreement: float = 0.2  # share of the compared answers whose top class differs
    requests: int = 50  # with fewer requests or comparisons nothing is judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of requests to the canary and the stable version, by label, since the watch began."""

    requests: Mapping[str, int]
    failed: Mapping[str, int]
    mean_seconds: Mapping[str, float]  # durations of answered requests
    compared: int
    differed: int

    def problems(self, limits: Limits) -> list[str]:
        """Name the exceeded limits, where there were enough requests to judge."""
        found, times = [], self.mean_seconds
        canary, stable = (self.failed[label] / max(1, self.requests[label]) for label in ("canary", "stable"))
        if self.requests["canary"] >= limits.requests and canary > stable + limits.more_failed:
            found.append(f"{canary:.1%} of its requests failed, of the stable version's {stable:.1%}")
        if min(self.requests.values()) >= limits.requests and times["canary"] > limits.slower * times["stable"] > 0:
            found.append(f"its requests took {times['canary']:.3f} s, the stable version's {times['stable']:.3f} s")
        if self.compared >= limits.requests and self.differed > limits.disagreement * self.compared:
            found.append(f"it disagreed about {self.differed} of {self.compared} photos with the stable version")
        return found

    def lacks(self, limits: Limits) -> list[str]:
        """Name what was too little to judge."""
        counts = {f"requests to {label}": count for label, count in self.requests.items()}
        counts["comparisons"] = self.compared
        return [f"only {n} {name}: too few to judge" for name, n in counts.items() if n < limits.requests]

    def __str__(self) -> str:
        told = [
            f"{label}: {self.requests[label]} requests, {self.failed[label]} failed, {self.mean_seconds[label]:.3f} s"
            for label in ("canary", "stable")
        ]
        return f"{'; '.join(told)}; {self.differed} of {self.compared} compared answers differ"


def _fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: the addresses are in the cluster
    with opener.open(url, timeout=5) as answer:
        return str(answer.read().decode("utf-8", "replace"))


def read_metrics(url: str) -> list[Sample]:
    """Read all that a page of metrics shows. Raises OSError: it does not answer, or shows none."""
    try:
        return [sample for family in text_string_to_metric_families(_fetch(url)) for sample in family.samples]
    except (ValueError, HTTPException) as error:
        raise OSError(f"no metrics of a gateway: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Gateways:
    """The metrics of all gateways; a name with several addresses, resolved for each reading, stands for one at each."""

    names: Sequence[str]

    def wait_share(self, model: str, share: float, *, timeout: float) -> int:
        """Wait until all gateways use a canary's share; return their number. A NoServerError names one that doesn't."""
        for _ in looks(timeout, pause=_PAUSE):
            seen = {address: self._share(address, model) for address in self._addresses()}
            others = [(address, found) for address, found in seen.items() if found != share]
            if not others:
                return len(seen)
        address, found = others[0]
        what = f"{len(others)} of {len(seen)} gateways do not have the share {share:g} of {model}: {address}"
        shown = "shows none" if found is None else f"has {found}"
        raise NoServerError(f"{what} {shown}; do they read canary.toml (canary_file)?")

    def watch(self, model: str, *, seconds: float, limits: Limits) -> tuple[Report, list[str]]:
        """Watch a canary until a limit is exceeded or time is over; return report and problems."""
        totals: dict[_Key, float] = collections.defaultdict(float)
        former: dict[str, dict[_Key, float]] = {}
        until = time.monotonic() + seconds
        while True:
            for address in self._addresses():
                with contextlib.suppress(OSError):
                    found = self._samples(address, model)
                    now = {(one.name, frozenset(one.labels.items())): one.value for one in found}
                    before = former.get(address, now)
                    for key, value in now.items():
                        # A counter that fell started from zero: its gateway was restarted.
                        since = before.get(key, 0.0)
                        totals[key] += value - since if value >= since else value
                    former[address] = now
            report = _report(totals)
            if problems := report.problems(limits):
                return report, problems
            if (left := until - time.monotonic()) <= 0:
                return report, report.lacks(limits)
            time.sleep(min(_PAUSE, left))

    def _addresses(self) -> list[str]:
        return list(dict.fromkeys(address for name in self.names for address in every_address(name)))

    def _share(self, address: str, model: str) -> float | str | None:
        """Return a gateway's share; None if it does not serve the model, or the error if it does not answer."""
        try:
            samples = self._samples(address, model)
        except OSError as error:
            return str(error)
        return next((sample.value for sample in samples if sample.name == f"{_PREFIX}share"), None)

    def _samples(self, address: str, model: str) -> list[Sample]:
        samples = read_metrics(f"http://{address}/metrics")
        return [one for one in samples if one.name.startswith(_PREFIX) and one.labels.get("model") == model]


def _report(totals: Mapping[_Key, float]) -> Report:
    def total(name: str, **labels: str) -> float:
        series = f"{_PREFIX}{name}"
        return sum(value for key, value in totals.items() if key[0] == series and labels.items() <= key[1])

    requests, failed, mean_seconds = {}, {}, {}
    for label in ("stable", "canary"):
        failed[label] = int(total("requests_total", label=label, ended="failed"))
        requests[label] = failed[label] + int(total("requests_total", label=label, ended="ok"))
        answered = max(1.0, total("request_duration_seconds_count", label=label))
        mean_seconds[label] = round(total("request_duration_seconds_sum", label=label) / answered, 4)
    differed, agreed = (int(total("comparisons_total", result=result)) for result in ("differed", "agreed"))
    compared = agreed + differed
    return Report(requests=requests, failed=failed, mean_seconds=mean_seconds, compared=compared, differed=differed)
