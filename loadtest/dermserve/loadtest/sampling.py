"""Once a second while a test runs: how busy each server is, by psutil where it runs here, else by its /metrics."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

_INTERVAL = 1.0
Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_STAGES = "dermserve_gateway_stage_duration_seconds"
_TIMEOUT = 2.0
# Of what is under test; a proxy of the environment has no part in it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Sampler:
    """Watches processes and metrics in a thread while the block lasts.

    Args:
        pids: processes of this machine, by name; their children count with them.
        metrics_url: of a gateway; "" for none.
    """

    def __init__(self, *, pids: Mapping[str, int], metrics_url: str = "") -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._url = metrics_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._samples: list[dict[str, Any]] = []
        self._before: Sample | None = None
        self._after: Sample | None = None

    def __enter__(self) -> Self:
        self._before = scrape(self._url)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._after = scrape(self._url)

    def report(self) -> dict[str, Any]:
        """Give what was seen: each second's cores and memory by process, and the gateway's stages."""
        return {
            "metrics": bool(self._before and self._after),
            "stages": difference(self._before, self._after),
            "samples": self._samples,
        }

    def _run(self) -> None:
        before = self._look()
        machine = psutil.cpu_times()
        then = time.monotonic()
        while not self._stop.wait(_INTERVAL):
            now, seen, times = time.monotonic(), self._look(), psutil.cpu_times()
            use = {
                name: {"cores": (seen[name][0] - before[name][0]) / (now - then), "resident_mb": seen[name][1] / 1e6}
                for name in seen
                if name in before
            }
            idle = times.idle - machine.idle + getattr(times, "iowait", 0) - getattr(machine, "iowait", 0)
            busy = max(0.0, (psutil.cpu_count() or 1) - idle / (now - then))
            self._samples.append({"second": int(time.time()), "machine_cores": busy, "processes": use})
            before, then, machine = seen, now, times

    def _look(self) -> dict[str, tuple[float, float]]:
        """CPU seconds and resident bytes by name."""
        seen = {}
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.Error):
                seen[name] = _use(process)
        if "gateway" not in seen and self._url and (sample := scrape(self._url)) and (use := process_use(sample)):
            seen["gateway"] = use
        return seen


def _use(process: psutil.Process) -> tuple[float, float]:
    cpu = resident = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            cpu += times.user + times.system
            resident += each.memory_info().rss
    return cpu, resident


def mean_cores(samples: list[dict[str, Any]], *, since: float = 0.0) -> dict[str, float]:
    """Give the mean number of cores each process used, "machine" for all of them."""
    seen: dict[str, list[float]] = {}
    for sample in samples:
        if sample["second"] >= since:
            seen.setdefault("machine", []).append(sample["machine_cores"])
            for name, use in sample["processes"].items():
                seen.setdefault(name, []).append(use["cores"])
    return {name: sum(values) / len(values) for name, values in seen.items()}


def scrape(url: str) -> Sample | None:
    """Read all samples by name and labels; None when nothing answers there."""
    if not url.startswith(("http://", "https://")):
        return None
    try:
        with _DIRECT.open(url, timeout=_TIMEOUT) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except (OSError, ValueError, urllib.error.URLError):
        return None


def difference(before: Sample | None, after: Sample | None) -> list[dict[str, Any]]:
    """Give each stage's calls and mean milliseconds between two looks; nothing where one is missing."""
    if before is None or after is None:
        return []
    stages = []
    for (name, labels), total in sorted(after.items()):
        if name != f"{_STAGES}_sum":
            continue
        calls = after.get((f"{_STAGES}_count", labels), 0) - before.get((f"{_STAGES}_count", labels), 0)
        spent = total - before.get((name, labels), 0)
        if calls > 0:
            stages.append({**dict(labels), "calls": calls, "mean_ms": spent / calls * 1000})
    return stages


def process_use(sample: Sample) -> tuple[float, float] | None:
    """Give a process's CPU seconds so far and its resident bytes; None when the metrics have neither."""
    cpu = sample.get(("process_cpu_seconds_total", ()))
    resident = sample.get(("process_resident_memory_bytes", ()))
    return None if cpu is None or resident is None else (cpu, resident)
