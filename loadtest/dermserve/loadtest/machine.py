"""Describe the machine of a test, and how busy each server is: from psutil if it runs here, else from its /metrics."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from dermserve.models.lifecycle.watch import read_metrics
from dermserve.modelserver.flags import usable_cores

_PACKAGES = ("dermserve", "grpcio", "locust", "gevent", "numpy", "pillow")
_STAGES = "dermserve_gateway_stage_duration_seconds"
_INTERVAL = 1.0
Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, load, system, versions, and the checkout's commit."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str:
    """Give the checkout's commit, with "-dirty" where files differ from it; "" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    folder = pathlib.Path(__file__).parent
    try:
        found = subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, text=True, timeout=20)  # noqa: S603
        return found.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextlib.contextmanager
def sampling(pids: Mapping[str, int], *, metrics_url: str = "") -> Iterator[dict[str, Any]]:
    """Watch processes by name, to which more may be added, and metrics in a thread while the block lasts.

    Returns "samples", each second's busy cores and use of each process, and after the block the gateway's "stages".
    """
    seen: dict[str, Any] = {"samples": [], "stages": []}
    stop = threading.Event()

    def watch() -> None:
        then, before = time.monotonic(), _look(pids, metrics_url)
        psutil.cpu_percent()
        while not stop.wait(_INTERVAL):
            now, after = time.monotonic(), _look(pids, metrics_url)
            use = {
                name: {"cores": (cpu - before[name][0]) / (now - then), "resident_mb": resident / 1e6}
                for name, (cpu, resident) in after.items()
                if name in before
            }
            busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
            seen["samples"].append({"second": int(time.time()), "machine_cores": busy, "processes": use})
            then, before = now, after

    first = scrape(metrics_url)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen["stages"] = difference(first, scrape(metrics_url))


def _look(pids: Mapping[str, int], metrics_url: str) -> dict[str, tuple[float, float]]:
    seen = {}
    for name, pid in list(pids.items()):
        with contextlib.suppress(psutil.Error):
            seen[name] = use_of(pid)
    if "gateway" not in seen and (sample := scrape(metrics_url)):
        with contextlib.suppress(KeyError):
            seen["gateway"] = sample["process_cpu_seconds_total", ()], sample["process_resident_memory_bytes", ()]
    return seen


def use_of(pid: int) -> tuple[float, float]:
    """Return the processor seconds and resident bytes of a process and its children; raise psutil.Error if it ended."""
    family = (process := psutil.Process(pid), *process.children(recursive=True))
    times, memory = [each.cpu_times() for each in family], [each.memory_info().rss for each in family]
    return sum(each.user + each.system for each in times), float(sum(memory))


def scrape(url: str) -> Sample | None:
    """Read all samples by name and labels; None if there is no answer."""
    with contextlib.suppress(OSError):
        if url:
            return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in read_metrics(url)}
    return None


def difference(before: Sample | None, after: Sample | None) -> list[dict[str, Any]]:
    """Return each stage's calls and mean milliseconds between two readings; nothing if one is missing."""
    if before is None or after is None:
        return []
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    stages = [(labels, spent) for (name, labels), spent in sorted(grown.items()) if name == f"{_STAGES}_sum"]
    counted = [(dict(labels), grown[f"{_STAGES}_count", labels], spent) for labels, spent in stages]
    return [
        {**labels, "calls": calls, "mean_ms": spent / calls * 1000} for labels, calls, spent in counted if calls > 0
    ]
