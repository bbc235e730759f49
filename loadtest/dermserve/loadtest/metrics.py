"""A test's share of the gateway's /metrics: the difference between two scrapes."""

import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_STAGES = "dermserve_gateway_stage_duration_seconds"
_TIMEOUT = 2.0
# Of what is under test; a proxy of the environment has no part in it.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
