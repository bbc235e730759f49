"""Latency against throughput, and throughput against callers with the law through it."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermserve.loadtest.capacity import Aim, Capacity
from dermserve.loadtest.report import settings


def write_plot(found: Sequence[Capacity], aim: Aim, file: pathlib.Path) -> None:
    """Draw a row for each model and mode."""
    with settings():
        figure = Figure(figsize=(10, 3.2 * len(found)), layout="constrained")
        for each, (left, right) in zip(found, figure.subplots(len(found), 2, squeeze=False), strict=True):
            _latency(left, each, aim)
            _law(right, each)
        figure.savefig(file, dpi=110)


def _latency(axes: Axes, found: Capacity, aim: Aim) -> None:
    closed = sorted((point for point in found.closed_points if point.gateways == 1), key=lambda point: point.callers)
    axes.plot([point.answers for point in closed], [point.p99 for point in closed], "o-", label="closed loop, p99")
    axes.plot([point.answers for point in closed], [point.p50 for point in closed], "o--", label="closed loop, p50")
    axes.plot([p.answers for p in found.open_points], [p.p99 for p in found.open_points], "x", label="open loop, p99")
    axes.axhline(aim.milliseconds, color="#c1121f", lw=1, label=f"{aim.limit} threshold")
    if found.found.kept:
        axes.axvline(found.found.kept, color="#2b9348", lw=1, label="highest rate within it")
    axes.set(title=f"{found.model} {found.mode}", xlabel="answers a second", ylabel="milliseconds", yscale="log")
    axes.legend(fontsize=7)


def _law(axes: Axes, found: Capacity) -> None:
    for gateways in sorted({point.gateways for point in found.closed_points}):
        points = [point for point in found.closed_points if point.gateways == gateways]
        (dots,) = axes.plot(
            [p.callers for p in points], [p.answers for p in points], "o", label=f"{gateways} gateway(s)"
        )
        if law := found.laws.get(gateways):
            callers = np.linspace(1, max(point.callers for point in points), 100)
            axes.plot(callers, [law.at(count) for count in callers], color=dots.get_color(), lw=1)
    axes.set(title="scalability law", xlabel="callers", ylabel="answers a second", ylim=(0, None))
    axes.legend(fontsize=7)
