"""Where and from what a test ran, so that its numbers can be judged later."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import psutil

_PACKAGES = ("grpcio", "locust", "gevent", "numpy", "pillow", "tensorflow")


def describe_machine() -> dict[str, Any]:
    """Give processor, cores, memory, load, system and versions."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": commit(),
    }


def commit() -> str:
    """Give the checkout's commit, "+ changes" where files differ from it; "" outside a checkout."""
    here = pathlib.Path(__file__).parent
    head = _git(here, "rev-parse", "HEAD")
    return f"{head} + changes" if head and _git(here, "status", "--porcelain", "--untracked-files=no") else head


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
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
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
