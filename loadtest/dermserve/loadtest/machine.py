"""Describe the machine of a test, and how busy each server is: from psutil if it runs here, else from its /metrics."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from dermserve.local.stack import usable_cores

_PACKAGES = ("grpcio", "locust", "gevent", "numpy", "pillow", "tensorflow")
_STAGES = "dermserve_gateway_stage_duration_seconds"
_INTERVAL = 1.0
_TIMEOUT = 2.0
# The environment's proxy is not for the servers under test.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, load, system, versions, and the checkout's commit."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def _commit() -> str:
    """Give the checkout's commit, "+ changes" where files differ from it; "" outside a checkout."""
    head = _git("rev-parse", "HEAD")
    return f"{head} + changes" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


@contextlib.contextmanager
def sampling(pids: Mapping[str, int], *, metrics_url: str = "") -> Iterator[dict[str, Any]]:
    """Watch processes and metrics in a thread while the block lasts.

    Args:
        pids: processes of this machine, by name; their children count with them.
        metrics_url: of a gateway; "" for none.

    Returns:
        "samples", each second's cores and memory by process; after the block also "stages", those of the gateway.
    """
    seen: dict[str, Any] = {"samples": [], "stages": []}
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(processes, metrics_url, seen["samples"], stop), daemon=True)
    before = scrape(metrics_url)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen["stages"] = difference(before, scrape(metrics_url))


def _sample(
    processes: Mapping[str, psutil.Process], metrics_url: str, samples: list[dict[str, Any]], stop: threading.Event
) -> None:
    then, before = time.monotonic(), _look(processes, metrics_url)
    psutil.cpu_percent()
    while not stop.wait(_INTERVAL):
        now, seen = time.monotonic(), _look(processes, metrics_url)
        use = {
            name: {"cores": (cpu - before[name][0]) / (now - then), "resident_mb": resident / 1e6}
            for name, (cpu, resident) in seen.items()
            if name in before
        }
        busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
        samples.append({"second": int(time.time()), "machine_cores": busy, "processes": use})
        then, before = now, seen


def _look(processes: Mapping[str, psutil.Process], metrics_url: str) -> dict[str, tuple[float, float]]:
    """CPU seconds and resident bytes by name."""
    seen = {}
    for name, process in processes.items():
        with contextlib.suppress(psutil.Error):
            seen[name] = _use(process)
    if "gateway" not in seen and (sample := scrape(metrics_url)):
        with contextlib.suppress(KeyError):
            seen["gateway"] = sample["process_cpu_seconds_total", ()], sample["process_resident_memory_bytes", ()]
    return seen


def _use(process: psutil.Process) -> tuple[float, float]:
    cpu = resident = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            cpu += times.user + times.system
            resident += each.memory_info().rss
    return cpu, resident


def scrape(url: str) -> Sample | None:
    """Read all samples by name and labels; None if there is no answer."""
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
    except (OSError, ValueError):
        return None


def difference(before: Sample | None, after: Sample | None) -> list[dict[str, Any]]:
    """Return each stage's calls and mean milliseconds between two readings; nothing if one is missing."""
    if before is None or after is None:
        return []
    stages = []
    for (name, labels), total in sorted(after.items()):
        if name == f"{_STAGES}_sum":
            count = (f"{_STAGES}_count", labels)
            calls = after.get(count, 0) - before.get(count, 0)
            spent = total - before.get((name, labels), 0)
            if calls > 0:
                stages.append({**dict(labels), "calls": calls, "mean_ms": spent / calls * 1000})
    return stages
