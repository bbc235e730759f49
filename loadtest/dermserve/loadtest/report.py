"""Write the report of a test as one HTML file without dependencies."""

import base64
import datetime
import importlib.resources
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermserve.loadtest.capacity import Capacity, throughput
from dermserve.loadtest.recorder import Cell, middle_of, quantile
from dermserve.loadtest.result import Result
from dermserve.loadtest.slo import Finding
from dermserve.models.durable import write_durably

_STYLE = "seaborn-v0_8-whitegrid"
_POINTS = 120
_GOOD, _BAD = "#2a6f97", "#c1121f"


def write_report(result: Result, file: pathlib.Path, *, findings: Sequence[Finding] = ()) -> None:
    """Write the report, whole or not at all.

    Args:
        result: what was measured.
        file: where to.
        findings: of the thresholds, if there were any.
    """
    template = importlib.resources.files("dermserve.loadtest").joinpath("report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    stages = _stage_means(result)
    with matplotlib.style.context(_STYLE):
        page = environment.from_string(template).render(
            result=result,
            rows=[*result.rows, result.all],
            findings=findings,
            pictures=_pictures(result, stages),
            stages=stages,
            scenario=json.dumps(result.data["scenario"], indent=1),
            machine=json.dumps(result.data["machine"], indent=1),
            messages=result.data["messages"],
            started=datetime.datetime.fromtimestamp(result.data["started"], datetime.UTC).isoformat(timespec="seconds"),
        )
    write_durably(file, page)


def _pictures(result: Result, stages: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Draw all plots for which the result has data; return data URLs by title."""
    pictures = {
        "Latency over time": _over_time(result),
        "Answers and errors": _throughput(result),
        "Latency by kind of call": _histograms(result),
    }
    if stages:
        pictures["Where the time goes in the gateway"] = _stages(stages)
    if result.data["server"]["samples"] or result.data["generators"]:
        pictures["Processor and memory"] = _resources(result)
    return {title: _png(figure) for title, figure in pictures.items()}


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _figure(columns: int = 1, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _slices(result: Result) -> tuple[int, dict[int, Cell]]:
    """Combine seconds into at most _POINTS slices; return a slice's seconds, and each slice's calls by its start."""
    start, length = int(result.data["started"]), int(result.data["ended"] - result.data["started"])
    width = max(1, round(length / _POINTS))
    slices = {second: Cell() for second in range(0, length + 1, width)}
    for cell in result.cells:
        slices.setdefault((cell.second - start) // width * width, Cell()).merge(cell)
    return width, dict(sorted(slices.items()))


def _over_seconds(axes: Axes, result: Result, **labels: Any) -> None:
    if warm_up := result.data["scenario"]["warm_up"]:
        axes.axvspan(0, warm_up, color="0.9", zorder=0, label="warm-up, not counted")
    axes.set(xlabel="seconds since the start", **labels)
    axes.legend(ncols=4, fontsize=8)


def _over_time(result: Result) -> Figure:
    figure, (axes,) = _figure()
    slices = {start: cell for start, cell in _slices(result)[1].items() if cell.latency}
    for name, share in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
        axes.plot(list(slices), [quantile(cell.latency, share) for cell in slices.values()], label=name)
    _over_seconds(axes, result, ylabel="milliseconds", yscale="log")
    return figure


def _throughput(result: Result) -> Figure:
    figure, (axes,) = _figure()
    width, slices = _slices(result)
    answers = np.array([cell.statuses["OK"] for cell in slices.values()])
    calls = np.array([cell.statuses.total() for cell in slices.values()])
    axes.plot(list(slices), answers / width, color=_GOOD, label="answers/s")
    axes.fill_between(list(slices), (calls - answers) / width, color=_BAD, alpha=0.6, step="mid", label="errors/s")
    _over_seconds(axes, result, ylabel="calls a second", ylim=(0, None))
    return figure


def _histograms(result: Result) -> Figure:
    figure, (axes,) = _figure()
    for kind, cell in result.kinds.items():
        if cell.latency:
            buckets, counts = np.array(sorted(cell.latency.items())).T
            edges = np.geomspace(middle_of(buckets[0]) * 0.99, middle_of(buckets[-1]) * 1.01, 60)
            shares, milliseconds = counts / counts.sum(), [middle_of(bucket) for bucket in buckets]
            axes.hist(milliseconds, edges.tolist(), weights=shares, histtype="step", label=" ".join(filter(None, kind)))
    axes.set(xlabel="milliseconds", ylabel="share of calls", xscale="log")
    if axes.has_data():
        axes.legend(fontsize=8)
    return figure


def _stage_means(result: Result) -> dict[str, Mapping[str, float]]:
    """Return mean milliseconds by stage for each row, from the gateway's metrics if there are any, else answers."""
    if not (told := result.data["server"]["stages"]):
        return {row.name: row.stages for row in result.rows if row.stages}
    models: dict[str, dict[str, float]] = {}
    for each in told:
        models.setdefault(each.get("model", ""), {})[each["stage"]] = each["mean_ms"]
    return dict(models)


def _stages(means: Mapping[str, Mapping[str, float]]) -> Figure:
    figure, (axes,) = _figure(height=1.2 + 0.4 * len(means))
    left = np.zeros(len(means))
    for name in dict.fromkeys(stage for stages in means.values() for stage in stages):
        widths = np.array([stages.get(name, 0.0) for stages in means.values()])
        axes.barh(list(means), widths, left=left, label=name)
        left += widths
    axes.set(xlabel="mean milliseconds")
    figure.legend(ncols=5, loc="outside upper center", fontsize=8)
    return figure


def _resources(result: Result) -> Figure:
    figure, (cores, memory) = _figure(columns=2)
    seen: dict[tuple[Axes, str], list[tuple[float, float]]] = {}
    for sample in result.data["server"]["samples"]:
        second = sample["second"] - result.data["started"]
        seen.setdefault((cores, "whole machine"), []).append((second, sample["machine_cores"]))
        for name, use in sample["processes"].items():
            seen.setdefault((cores, name), []).append((second, use["cores"]))
            seen.setdefault((memory, name), []).append((second, use["resident_mb"]))
    for note in result.data["generators"]:
        second = note["second"] - result.data["started"]
        seen.setdefault((cores, f"generator {note['name']}"), []).append((second, note["cpu"]))
    for (axes, name), points in seen.items():
        axes.plot(*zip(*points, strict=True), label=name)
    cores.set(xlabel="seconds since the start", ylabel="cores busy", ylim=(0, None))
    memory.set(xlabel="seconds since the start", ylabel="MB resident", ylim=(0, None))
    cores.legend(fontsize=8)
    return figure


def plot_capacity(found: Sequence[Capacity], file: pathlib.Path, *, limit: str, milliseconds: float) -> None:
    """Draw latency against throughput, and throughput against callers with the law: a row for each model and mode."""
    with matplotlib.style.context(_STYLE):
        figure = Figure(figsize=(10, 3.2 * len(found)), layout="constrained")
        for each, (left, right) in zip(found, figure.subplots(len(found), 2, squeeze=False), strict=True):
            left.axhline(milliseconds, color=_BAD, lw=1, label=f"{limit} threshold")
            _latency(left, each)
            _law(right, each)
        figure.savefig(file, dpi=110)


def _latency(axes: Axes, found: Capacity) -> None:
    closed = sorted((point for point in found.closed_points if point.gateways == 1), key=lambda point: point.callers)
    answers = [point.answers for point in closed]
    axes.plot(answers, [point.p99 for point in closed], "o-", label="closed loop, p99")
    axes.plot(answers, [point.p50 for point in closed], "o--", label="closed loop, p50")
    axes.plot([p.answers for p in found.open_points], [p.p99 for p in found.open_points], "x", label="open loop, p99")
    if found.found.kept:
        axes.axvline(found.found.kept, color=_GOOD, lw=1, label="highest rate within it")
    axes.set(title=f"{found.model} {found.mode}", xlabel="answers a second", ylabel="milliseconds", yscale="log")
    axes.legend(fontsize=7)


def _law(axes: Axes, found: Capacity) -> None:
    for gateways in sorted({point.gateways for point in found.closed_points}):
        points = [(point.callers, point.answers) for point in found.closed_points if point.gateways == gateways]
        (dots,) = axes.plot(*zip(*points, strict=True), "o", label=f"{gateways} gateway(s)")
        if law := found.laws.get(gateways):
            callers = np.linspace(1, max(points)[0], 100)
            axes.plot(
                callers, throughput(callers, law.rate, law.contention, law.coherence), color=dots.get_color(), lw=1
            )
    axes.set(title="scalability law", xlabel="callers", ylabel="answers a second", ylim=(0, None))
    axes.legend(fontsize=7)


def capacity_table(found: Sequence[Capacity], slo: str) -> str:
    """Format capacities as text."""
    lines = [f"{'':32}{'rate with ' + slo:>24}{'most answers/s':>16}{'callers at peak':>17}"]
    for each in found:
        law, best = each.laws.get(1), max(point.answers for point in each.closed_points)
        peak = f"{law.peak:.0f}" if law and law.peak < 10_000 else "–"
        lines.append(f"{each.model + ' ' + each.mode:32}{each.found!s:>24}{best:>16.2f}{peak:>17}")
        lines.append(f"  {each.why}")
        if each.photos_per_core:
            costs = ", ".join(f"{name.replace('_', ' ')} {ms:.3g}" for name, ms in each.core_ms.items())
            lines.append(f"  {each.photos_per_core:.2f} photos/s a core; core-ms a photo: {costs}")
        lines += [f"  {gateways} gateway(s): {law}" for gateways, law in each.laws.items()]
    return "\n".join(lines)
