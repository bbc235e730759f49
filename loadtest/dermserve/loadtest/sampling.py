"""Once a second while a test runs: how busy each server is, by psutil where it runs here, else by its /metrics."""

import contextlib
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psutil

from dermserve.loadtest.metrics import Sample, difference, process_use, scrape

_INTERVAL = 1.0


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
