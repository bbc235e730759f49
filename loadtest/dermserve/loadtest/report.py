"""The report of a test as one HTML file that needs nothing else: a Jinja template, and plots without a display."""

import base64
import datetime
import importlib.resources
import io
import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermserve.loadtest.recorder import Cell, Histogram, middle_of
from dermserve.loadtest.result import Result
from dermserve.loadtest.slo import Finding
from dermserve.models.store import write_durably

_LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_QUANTILES = {0.5: "p50", 0.95: "p95", 0.99: "p99"}
_POINTS = 120
_OK = "#2a6f97"
_BAD = "#c1121f"


def write_report(result: Result, file: pathlib.Path, *, findings: Sequence[Finding] = ()) -> None:
    """Write the report, whole or not at all.

    Args:
        result: what was measured.
        file: where to.
        findings: of the gate, if there was one.
    """
    template = importlib.resources.files("dermserve.loadtest").joinpath("report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    with settings():
        pictures = {title: _png(figure) for title, figure in _plots(result).items()}
    page = environment.from_string(template).render(
        result=result,
        rows=[*result.rows, result.all],
        findings=findings,
        pictures=pictures,
        stages=_stage_means(result),
        scenario=json.dumps(result.data["scenario"], indent=1),
        machine=result.data["machine"],
        messages=result.data["messages"],
        started=datetime.datetime.fromtimestamp(result.data["started"], datetime.UTC).isoformat(timespec="seconds"),
    )
    write_durably(file, page)


def settings() -> AbstractContextManager[None]:
    """Set how plots look, while the block lasts."""
    return mpl.rc_context(_LOOK)


def _png(figure: Figure) -> str:
    """Give a figure as a data URL."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _plots(result: Result) -> dict[str, Figure]:
    """Draw all that a result has data for, by title."""
    drawn = {
        "Latency over time": _over_time(result),
        "Answers and errors": _throughput(result),
        "Latency by kind of call": _histograms(result),
    }
    if any(row.stages for row in result.rows) or result.data["server"]["stages"]:
        drawn["Where the time goes in the gateway"] = _stages(result)
    if result.data["server"]["samples"] or result.data["generators"]:
        drawn["Processor and memory"] = _resources(result)
    return drawn


def _slices(result: Result) -> tuple[int, dict[int, Cell]]:
    """Put seconds together to at most _POINTS slices; give the seconds of one, and each slice's calls by its start."""
    start = int(result.data["started"])
    width = max(1, round((result.data["ended"] - start) / _POINTS))
    slices = {second: Cell() for second in range(0, int(result.data["ended"] - start) + 1, width)}
    for (second, *_), cell in result.cells:
        slices.setdefault((second - start) // width * width, Cell()).merge(cell)
    return width, dict(sorted(slices.items()))


def _axes(rows: int = 1, columns: int = 1, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height * rows), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def _mark_warm_up(axes: Axes, result: Result) -> None:
    if warm_up := result.data["scenario"].get("warm_up"):
        axes.axvspan(0, warm_up, color="0.9", zorder=0, label="warm-up, not counted")


def _over_time(result: Result) -> Figure:
    figure, (axes,) = _axes()
    _, slices = _slices(result)
    slices = {start: cell for start, cell in slices.items() if cell.latency.total}
    for share, name in _QUANTILES.items():
        axes.plot(list(slices), [cell.latency.quantile(share) for cell in slices.values()], label=name, lw=1.4)
    _mark_warm_up(axes, result)
    axes.set(xlabel="seconds since the start", ylabel="milliseconds", yscale="log")
    axes.legend(ncols=4, loc="upper right")
    return figure


def _throughput(result: Result) -> Figure:
    figure, (axes,) = _axes()
    width, slices = _slices(result)
    answers = [cell.statuses["OK"] / width for cell in slices.values()]
    errors = [(cell.statuses.total() - cell.statuses["OK"]) / width for cell in slices.values()]
    axes.plot(list(slices), answers, color=_OK, label="answers/s")
    axes.fill_between(list(slices), errors, color=_BAD, alpha=0.6, step="mid", label="errors/s")
    _mark_warm_up(axes, result)
    axes.set(xlabel="seconds since the start", ylabel="calls a second", ylim=(0, None))
    axes.legend(ncols=3, loc="lower right")
    return figure


def _histograms(result: Result) -> Figure:
    kinds: dict[str, list[Histogram]] = {}
    for (second, *kind), cell in result.cells:
        if second >= int(result.counted_from):
            kinds.setdefault(" ".join(filter(None, map(str, kind))), []).append(cell.latency)
    figure, (axes,) = _axes()
    for name, histograms in sorted(kinds.items()):
        counts = Histogram.merged(histograms).counts
        if counts:
            _draw_histogram(axes, name, counts)
    axes.set(xlabel="milliseconds", ylabel="share of calls", xscale="log")
    if kinds:
        axes.legend(fontsize=8)
    return figure


def _draw_histogram(axes: Axes, name: str, counts: Counter[int]) -> None:
    edges = np.geomspace(middle_of(min(counts)) * 0.99, middle_of(max(counts)) * 1.01, 60)
    middles, weights = [middle_of(bucket) for bucket in counts], np.array(list(counts.values()), float)
    axes.hist(middles, edges.tolist(), weights=weights / weights.sum(), histtype="step", label=name)


def _stage_means(result: Result) -> dict[str, Mapping[str, float]]:
    """Give mean milliseconds by stage for each row: the gateway's metrics where there are any, else its answers'."""
    if not (told := result.data["server"]["stages"]):
        return {row.name: row.stages for row in result.rows if row.stages}
    models: dict[str, dict[str, float]] = {}
    for each in told:
        models.setdefault(each.get("model", ""), {})[each["stage"]] = each["mean_ms"]
    return dict(models)


def _stages(result: Result) -> Figure:
    means = _stage_means(result)
    figure, (axes,) = _axes(height=1.2 + 0.4 * len(means))
    names = list(dict.fromkeys(stage for stages in means.values() for stage in stages))
    left = np.zeros(len(means))
    for name in names:
        widths = np.array([stages.get(name, 0.0) for stages in means.values()])
        axes.barh(list(means), widths, left=left, label=name)
        left += widths
    axes.set(xlabel="mean milliseconds")
    axes.legend(ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, 1.3), fontsize=8)
    return figure


def _resources(result: Result) -> Figure:
    start = result.data["started"]
    samples: list[Mapping[str, Any]] = result.data["server"]["samples"]
    figure, (cores, memory) = _axes(1, 2)
    for name in dict.fromkeys(name for sample in samples for name in sample["processes"]):
        having = [sample for sample in samples if name in sample["processes"]]
        seconds = [sample["second"] - start for sample in having]
        cores.plot(seconds, [sample["processes"][name]["cores"] for sample in having], label=name)
        memory.plot(seconds, [sample["processes"][name]["resident_mb"] for sample in having], label=name)
    for name in result.generators:
        notes = [note for note in result.data["generators"] if note["name"] == name]
        cores.plot(
            [note["second"] - start for note in notes], [note["cpu"] for note in notes], ls=":", label="generator"
        )
    if samples:
        machine = [sample["machine_cores"] for sample in samples]
        cores.plot([sample["second"] - start for sample in samples], machine, color="0.6", lw=1, label="whole machine")
    cores.set(xlabel="seconds since the start", ylabel="cores busy", ylim=(0, None))
    memory.set(xlabel="seconds since the start", ylabel="MB resident", ylim=(0, None))
    cores.legend(fontsize=8)
    return figure
