"""From visits to tables: medians over rounds, and ratios taken within a round, where noise is shared."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.comparison.field import FIELD, OURS
from benchmarks.comparison.measuring import Visit
from benchmarks.figures import Figures, Table, describe_run

_KINDS = {"1": "one view", "10": "ten views", "adaptive": "ADAPTIVE"}
_TITLES = {contender.name: contender.title for contender in FIELD}


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


def figures(visits: Sequence[Visit], about: Mapping[str, Any], command: str) -> Figures:
    """Make the tables."""
    kinds = [(model, kind) for model in dict.fromkeys(visit.model for visit in visits) for kind in _KINDS]
    found = [table for model, kind in kinds if (table := _table(visits, model, kind))]
    plan = f"{about['rounds']} rounds, {about['seconds']:g} s a cell"
    run = describe_run(about["machine"], date=about["date"], plan=plan)
    return Figures(command, run, [*found, _costs(visits)], list(_configurations(about)))


def _table(visits: Sequence[Visit], model: str, kind: str) -> Table | None:
    present = [visit for visit in visits if visit.model == model]
    cells = [cell for cell in _ours(present) if cell.startswith(f"{kind}/")]
    if not cells:
        return None
    rows = [
        [_TITLES[contender], *(_cell(present, contender, model, cell) for cell in cells)]
        for contender in dict.fromkeys(visit.contender for visit in present)
        if any(loop_values(present, contender, model, cell, "answers") for cell in cells)
    ]
    title = (
        f"{model}, {_KINDS[kind]}: answers a second, p99 in ms, and in brackets dermserve's rate over theirs (median of"
        " the rounds' ratios, and their range)"
    )
    return Table(title, ["", *(f"{cell.partition('/')[2]} callers" for cell in cells)], rows)


def _ours(visits: Iterable[Visit]) -> Mapping[str, Any]:
    return next((dict(visit.loops) for visit in visits if visit.contender == OURS), {})


def _cell(visits: Sequence[Visit], contender: str, model: str, cell: str) -> str:
    rates = loop_values(visits, contender, model, cell, "answers")
    if not rates:
        return ""
    p99 = statistics.median(loop_values(visits, contender, model, cell, "p99"))
    text = f"{statistics.median(rates):.1f}/s, {p99:.0f} ms"
    if contender == OURS or not (found := ratios(visits, contender, model, cell)):
        return text
    return f"{text} ({statistics.median(found):.2f}, {min(found):.2f}–{max(found):.2f})"


def _costs(visits: Sequence[Visit]) -> Table:
    rows = []
    for contender, model in dict.fromkeys((visit.contender, visit.model) for visit in visits):
        those = [visit for visit in visits if (visit.contender, visit.model) == (contender, model)]
        start, idle, loaded = (
            statistics.median(getattr(visit, what) for visit in those)
            for what in ("start_seconds", "idle_mb", "loaded_mb")
        )
        rows.append([_TITLES[contender], model, f"{start:.1f} s", f"{idle:.0f} MB", f"{loaded:.0f} MB"])
    title = (
        "What each takes: time from start to first answer, memory of all its processes before and after load (shared"
        " pages once); medians"
    )
    return Table(title, ["", "model", "first answer", "memory idle", "memory loaded"], rows)


def _configurations(about: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in about["contenders"].items():
        versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
        yield f"{_TITLES[name]}: {facts['configuration']} ({versions})"


def to_json(visits: Sequence[Visit], about: Mapping[str, Any]) -> str:
    """Write everything for machines."""
    return json.dumps({"about": about, "visits": [dataclasses.asdict(visit) for visit in visits]}, indent=1)
