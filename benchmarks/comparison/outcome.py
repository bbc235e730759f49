"""From visits to tables and a plot: medians over rounds, and ratios taken within a round, where noise is shared."""

import datetime
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.comparison.field import FIELD, OURS
from benchmarks.comparison.measuring import Visit

_TITLES = {contender.name: contender.title for contender in FIELD}
_OURS = {"lw": 2.4, "color": "black"}
"""How our lines look, whoever else is drawn."""
_BEGIN = "<!-- comparison: begin, written by python -m benchmarks.comparison -->"
_END = "<!-- comparison: end -->"


def loop_values(visits: Iterable[Visit], contender: str, model: str, cell: str, what: str) -> list[float]:
    """Give a number of each round's loop."""
    return [
        float(getattr(visit.loops[cell], what))
        for visit in visits
        if visit.contender == contender and visit.model == model and cell in visit.loops
    ]


def ratios(visits: Sequence[Visit], contender: str, model: str, cell: str) -> list[float]:
    """Give dermserve's answers a second over a contender's, of each round."""
    ours = loop_values(visits, OURS, model, cell, "answers")
    theirs = loop_values(visits, contender, model, cell, "answers")
    return [our / their for our, their in zip(ours, theirs, strict=False) if their]


def tables(visits: Sequence[Visit], about: Mapping[str, Any], command: str) -> str:
    """Write everything as Markdown."""
    machine = about["machine"]
    lines = [
        f"`{command}` on {datetime.date.fromisoformat(about['date']):%d %B %Y}: {machine['processor']}, "
        f"{machine['usable_cores']} cores, {machine['memory_gb']} GB, load before {machine['load_before'][0]}, commit "
        f"{machine['commit'][:12] or 'unknown'}; {about['rounds']} rounds, {about['seconds']:g} s a cell.",
        "",
    ]
    for model in dict.fromkeys(visit.model for visit in visits):
        for kind in ("1", "10", "adaptive"):
            lines += _table(visits, model, kind)
    return "\n".join([*lines, *_costs(visits, about), *_configurations(about)])


def _table(visits: Sequence[Visit], model: str, kind: str) -> list[str]:
    present = [visit for visit in visits if visit.model == model]
    cells = [cell for cell in _ours(present) if cell.startswith(f"{kind}/")]
    if not cells:
        return []
    name = {"1": "one view", "10": "ten views", "adaptive": "ADAPTIVE"}[kind]
    heads = [f"{cell.partition('/')[2]} callers" for cell in cells]
    lines = [
        f"**{model}, {name}**: answers a second, p99 in ms, and in brackets dermserve's rate over theirs (median of the"
        " rounds' ratios, and their range)",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(cells)}",
    ]
    for contender in dict.fromkeys(visit.contender for visit in present):
        if any(loop_values(present, contender, model, cell, "answers") for cell in cells):
            texts = (_cell(present, contender, model, cell) for cell in cells)
            lines.append(f"| {_TITLES[contender]} | {' | '.join(texts)} |")
    return [*lines, ""]


def _ours(visits: Iterable[Visit]) -> Mapping[str, Any]:
    return next((dict(visit.loops) for visit in visits if visit.contender == OURS), {})


def _cell(visits: Sequence[Visit], contender: str, model: str, cell: str) -> str:
    rates = loop_values(visits, contender, model, cell, "answers")
    if not rates:
        return ""
    p99 = statistics.median(loop_values(visits, contender, model, cell, "p99"))
    text = f"{statistics.median(rates):.1f}/s, {'–' if math.isnan(p99) else f'{p99:.0f} ms'}"
    if contender == OURS or not (found := ratios(visits, contender, model, cell)):
        return text
    return f"{text} ({statistics.median(found):.2f}, {min(found):.2f}–{max(found):.2f})"


def _costs(visits: Sequence[Visit], about: Mapping[str, Any]) -> list[str]:
    lines = [
        "**What each takes**: from start to first answer, memory of all its processes before and after load (shared"
        " pages once), its environment on disk; medians",
        "",
        "| | model | first answer | memory idle | memory loaded | installed |",
        "|---|---|---|---|---|---|",
    ]
    for contender, model in dict.fromkeys((visit.contender, visit.model) for visit in visits):
        those = [visit for visit in visits if (visit.contender, visit.model) == (contender, model)]
        start, idle, loaded = (
            statistics.median(getattr(visit, what) for visit in those)
            for what in ("start_seconds", "idle_mb", "loaded_mb")
        )
        installed = about["contenders"][contender]["installed_mb"]
        lines.append(
            f"| {_TITLES[contender]} | {model} | {start:.1f} s | {idle:.0f} MB | {loaded:.0f} MB | {installed:.0f} MB |"
        )
    return [*lines, ""]


def _configurations(about: Mapping[str, Any]) -> list[str]:
    lines = ["**How each is set up**", ""]
    for name, facts in about["contenders"].items():
        versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
        lines.append(f"- {_TITLES[name]}: {facts['configuration']} ({versions})")
    return lines


def draw(visits: Sequence[Visit], file: pathlib.Path) -> None:
    """Draw throughput and p99 against callers, for each model and number of views; ADAPTIVE beside the ten views."""
    models = list(dict.fromkeys(visit.model for visit in visits))
    figure = Figure(figsize=(11, 3.4 * len(models) * 2 + 0.6), layout="constrained")
    axes = figure.subplots(len(models) * 2, 2, squeeze=False)
    rows = [(model, kind) for model in models for kind in ("1", "10")]
    for (model, kind), pair in zip(rows, axes, strict=True):
        present = [visit for visit in visits if visit.model == model]
        for contender in dict.fromkeys(visit.contender for visit in visits):
            style = _OURS if contender == OURS else {"lw": 1.2}
            _lines(pair, present, contender, kind, {**style, "label": _TITLES[contender]})
        if kind == "10":
            _lines(pair, present, OURS, "adaptive", {**_OURS, "ls": "--", "label": "dermserve, ADAPTIVE"})
        name = f"{model}, {'one view' if kind == '1' else 'ten views'}"
        for one, label in zip(pair, ("answers a second", "p99, ms"), strict=True):
            one.set(title=name, xlabel="callers", ylabel=label, xscale="log")
            callers = sorted({_callers(cell) for visit in present for cell in visit.loops})
            one.set_xticks(callers, labels=[str(each) for each in callers])
            one.minorticks_off()
            one.grid(alpha=0.3)
        pair[0].set_ylim(0, None)
        pair[1].set_yscale("log")
    handles, labels = axes[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(file, dpi=100)


def _lines(axes: Sequence[Any], visits: Sequence[Visit], contender: str, kind: str, style: Mapping[str, Any]) -> None:
    """Draw medians of a contender's answers a second and p99."""
    cells = {cell for visit in visits for cell in visit.loops if cell.startswith(f"{kind}/")}
    ordered = sorted(cells, key=_callers)
    for one, what in zip(axes, ("answers", "p99"), strict=True):
        values = [loop_values(visits, contender, visits[0].model, cell, what) for cell in ordered]
        medians = [statistics.median(each) if each else math.nan for each in values]
        one.plot([_callers(cell) for cell in ordered], medians, marker="o", ms=3, **style)


def _callers(cell: str) -> int:
    return int(cell.partition("/")[2])


def write_docs(page: pathlib.Path, text: str) -> None:
    """Put a table between a page's markers.

    Raises:
        ValueError: the page has none.
    """
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {_BEGIN} and {_END}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def to_json(visits: Sequence[Visit], about: Mapping[str, Any]) -> str:
    """Write everything for machines."""
    flat = [
        {
            "contender": visit.contender, "model": visit.model, "start_seconds": visit.start_seconds,
            "idle_mb": visit.idle_mb, "loaded_mb": visit.loaded_mb,
            "loops": {
                cell: {"answers": loop.answers, "p50": _number(loop.p50), "p99": _number(loop.p99)}
                for cell, loop in visit.loops.items()
            },
        }
        for visit in visits
    ]  # fmt: skip
    return json.dumps({"about": about, "visits": flat}, indent=1)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
