"""Write the report of a test as one HTML file without dependencies."""

import base64
import datetime
import importlib.resources
import io
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermserve.loadtest.result import Finding, Result
from dermserve.models.durable import write_durably

STYLE = "seaborn-v0_8-whitegrid"


def write_report(result: Result, findings: Sequence[Finding], file: pathlib.Path) -> None:
    """Write the report with the findings of the thresholds, whole or not at all."""
    template = importlib.resources.files("dermserve.loadtest").joinpath("report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    with matplotlib.style.context(STYLE):
        page = environment.from_string(template).render(
            result=result,
            rows=[*result.rows, result.all],
            findings=findings,
            pictures={
                "Latency over time": _png(_latency(result)),
                "Answers and errors": _png(_throughput(result)),
                "Latency by kind of call": _png(_histograms(result)),
                "Processor and memory": _png(_resources(result)),
            },
            scenario=json.dumps(result.data["scenario"], indent=1),
            machine=json.dumps(result.data["machine"], indent=1),
            started=datetime.datetime.fromtimestamp(result.data["started"], datetime.UTC).isoformat(timespec="seconds"),
        )
    write_durably(file, page)


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, 3), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _finish(axes: Axes, **labels: Any) -> None:
    axes.set(**{"xlabel": "seconds since the start", **labels})
    if axes.has_data():
        axes.legend(ncols=4, fontsize=8)


def _latency(result: Result) -> Figure:
    """Draw Locust's percentiles, which are of the last ten seconds."""
    figure, (axes,) = _figure()
    for name, share in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
        points = [each[f"response_time_percentile_{share}"] for each in result.data["history"]]
        seen = [(datetime.datetime.fromisoformat(when).timestamp(), value) for when, value in points if value]
        axes.plot([when - result.data["started"] for when, _ in seen], [value for _, value in seen], label=name)
    _finish(axes, ylabel="milliseconds", yscale="log")
    return figure


def _throughput(result: Result) -> Figure:
    """Draw what ended in each second after the warm-up."""
    figure, (axes,) = _figure()
    calls, errors = Counter[int](), Counter[int]()
    for entry in result.data["stats"]:
        calls.update({int(second): count for second, count in entry["num_reqs_per_sec"].items()})
        errors.update({int(second): count for second, count in entry["num_fail_per_sec"].items()})
    seconds = range(int(result.counted_from) + 1, int(result.data["ended"]))
    since = [second - result.data["started"] for second in seconds]
    axes.plot(since, [calls[second] - errors[second] for second in seconds], label="answers/s")
    axes.fill_between(since, [errors[second] for second in seconds], color="#c1121f", alpha=0.6, label="errors/s")
    _finish(axes, ylabel="calls a second", ylim=(0, None))
    return figure


def _histograms(result: Result) -> Figure:
    figure, (axes,) = _figure()
    for row in result.rows:
        if row.latency:
            edges = np.geomspace(max(min(row.latency), 0.01) * 0.99, max(row.latency) * 1.01, 60)
            shares = np.array(list(row.latency.values())) / sum(row.latency.values())
            axes.hist(list(row.latency), edges.tolist(), weights=shares, histtype="step", label=row.name)
    _finish(axes, xlabel="milliseconds", ylabel="share of calls", xscale="log")
    return figure


def _resources(result: Result) -> Figure:
    figure, (cores, memory) = _figure(columns=2)
    samples = result.data["server"]["samples"]
    since = [sample["second"] - result.data["started"] for sample in samples]
    cores.plot(since, [sample["machine_cores"] for sample in samples], label="whole machine")
    for name in dict.fromkeys(name for sample in samples for name in sample["processes"]):
        for axes, what in ((cores, "cores"), (memory, "resident_mb")):
            axes.plot(since, [each["processes"].get(name, {}).get(what, np.nan) for each in samples], label=name)
    _finish(cores, ylabel="cores busy", ylim=(0, None))
    _finish(memory, ylabel="MB resident", ylim=(0, None))
    return figure
