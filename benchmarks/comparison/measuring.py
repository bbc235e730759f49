"""One contender in one round: its start, its answers checked, closed loops of callers, its memory; and the tables."""

import http.client
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.comparison.contenders import DIRECT, FIELD, OURS, Contender, ContenderError, megabytes, running
from benchmarks.figures import Table
from benchmarks.serving import Loop, closed_loop, direct_caller, gateway_caller
from dermserve.models.catalogue import SPECS

VIEWS = {"1": 1, "10": 10, "adaptive": 10}
"""How many views each kind of call asks for at most."""
_MODES = {"1": "none", "10": "full", "adaptive": "adaptive"}
_KINDS = {"1": "one view", "10": "ten views", "adaptive": "ADAPTIVE"}
_TITLES = {contender.name: contender.title for contender in FIELD}
_TIMEOUT = 180.0
TOLERANCE = 2e-3
"""Between a contender's probabilities and the reference's: networks are compiled differently, not alike to the bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    callers: tuple[int, ...]
    seconds: float
    """Of each loop."""
    photos: tuple[bytes, ...]
    weights: pathlib.Path
    environments: pathlib.Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One contender, one model, one round."""

    contender: str
    model: str
    start_seconds: float
    """From its start to its first answer."""
    loaded_mb: float
    """After the loops."""
    loops: Mapping[tuple[str, int], Loop]
    """By kind and callers."""


Reference = Mapping[str, Sequence[Sequence[float]]]
"""Each photo's probabilities by kind."""


def visit(contender: Contender, model: str, plan: Plan, reference: Reference, say: Callable[[str], None]) -> Visit:
    """Start a contender, check it, measure it, stop it.

    Raises:
        ContenderError: it does not start, or answers something else than the reference.
    """
    started, loops = time.monotonic(), {}
    with running(contender, model, weights=plan.weights, environments=plan.environments) as (address, pids):
        _caller(contender, address, model, "1")(plan.photos[0])
        start = time.monotonic() - started
        kinds = _kinds_of(contender)
        for kind in set(kinds) & reference.keys():
            _check(contender, _caller(contender, address, model, kind), kind, plan, reference)
        for kind, callers in itertools.product(kinds, plan.callers):
            calls = [_caller(contender, address, model, kind) for _ in range(callers)]
            loop = closed_loop(calls, plan.photos, seconds=plan.seconds, warm_up=min(2.0, plan.seconds))
            loops[kind, callers] = loop
            say(f"    {_KINDS[kind]}, {callers} callers: {loop.answers:.1f}/s, p99 {loop.p99:.0f} ms")
        memory = megabytes(pids)
    return Visit(contender=contender.name, model=model, start_seconds=start, loaded_mb=memory, loops=loops)


def _kinds_of(contender: Contender) -> list[str]:
    """Return what a contender can be asked: ADAPTIVE is ours alone, and those as documented have one view."""
    return [
        kind for kind in VIEWS if contender.name == OURS or kind == "1" or (kind == "10" and not contender.documented)
    ]


def _check(contender: Contender, call: Callable[[bytes], list[float]], kind: str, plan: Plan, ref: Reference) -> None:
    """Compare answers with the reference; one with a decoder of its own must give probabilities, not the same ones."""
    for index, (photo, expected) in enumerate(zip(plan.photos, ref[kind], strict=True)):
        found = call(photo)
        off = abs(sum(found) - 1) if contender.documented else float(np.abs(np.subtract(found, expected)).max())
        if off > TOLERANCE or len(found) != len(expected):
            raise ContenderError(
                f"{contender.title} answers something else for {_KINDS[kind]}, photo {index}: "
                f"a probability is off by {off:.4f}; nothing it does can be compared"
            )


def reference_of(model: str, plan: Plan) -> Reference:
    """Ask the reference, which is dermserve itself, for every photo's probabilities.

    Raises:
        ContenderError: its answers don't tell photos apart, so that they could not tell contenders apart either.
    """
    ours, found = next(each for each in FIELD if each.name == OURS), {}
    with running(ours, model, weights=plan.weights, environments=plan.environments) as (address, _):
        for kind in ("1", "10"):
            found[kind] = [_caller(ours, address, model, kind)(photo) for photo in plan.photos]
    if float(np.ptp(np.array(found["1"]), axis=0).max()) < TOLERANCE:
        raise ContenderError(f"{model} says the same of all photos: take others, or weights that were trained")
    return found


def _caller(contender: Contender, address: str, model: str, kind: str) -> Callable[[bytes], list[float]]:
    """Make a caller with a connection of its own: photo bytes in, probabilities in the model's own order out."""
    if contender.name == DIRECT:
        return direct_caller(address, model, VIEWS[kind])
    if contender.name != OURS:
        return _http(contender, address, VIEWS[kind])
    call, codes = gateway_caller(address, model, _MODES[kind]), [each.code for each in SPECS[model].classes]

    def ask(photo: bytes) -> list[float]:
        found = {each.code: each.probability for each in call(photo).classes}
        return [found[code] for code in codes]

    return ask


def _http(contender: Contender, address: str, views: int) -> Callable[[bytes], list[float]]:
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT)

    def call(photo: bytes) -> list[float]:
        connection.request("POST", f"/classify?views={views}", photo, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ContenderError(f"{contender.title} answered {response.status}: {answer[:300]!r}")
        return [float(value) for value in json.loads(answer)["probabilities"]]

    return call


def tables(visits: Sequence[Visit]) -> list[Table]:
    """Make a table for each model and kind, and one of costs: medians over rounds, ratios taken within a round."""
    found = []
    for model, kind in itertools.product(dict.fromkeys(each.model for each in visits), VIEWS):
        those = [each for each in visits if each.model == model]
        cells = [cell for cell in next(each.loops for each in those if each.contender == OURS) if cell[0] == kind]
        rows = [[_TITLES[name], *(_cell(those, name, cell) for cell in cells)]
                for name in dict.fromkeys(each.contender for each in those if cells[0] in each.loops)]  # fmt: skip
        title = (
            f"{model}, {_KINDS[kind]}: answers a second, p99 in ms, and in brackets dermserve's rate over theirs"
            " (median of the rounds' ratios, and their range)"
        )
        found.append(Table(title, ["", *(f"{callers} callers" for _, callers in cells)], rows))
    return [*found, _costs(visits)]


def _cell(visits: Sequence[Visit], contender: str, cell: tuple[str, int]) -> str:
    theirs, ours = ([each.loops[cell] for each in visits if each.contender == name] for name in (contender, OURS))
    rate, p99 = (statistics.median(getattr(loop, what) for loop in theirs) for what in ("answers", "p99"))
    ratios = [our.answers / their.answers for our, their in zip(ours, theirs, strict=True)]
    text = f"{rate:.1f}/s, {p99:.0f} ms"
    return (
        text if contender == OURS else f"{text} ({statistics.median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f})"
    )


def _costs(visits: Sequence[Visit]) -> Table:
    rows = []
    for name, model in dict.fromkeys((each.contender, each.model) for each in visits):
        those = [each for each in visits if (each.contender, each.model) == (name, model)]
        start, memory = (
            statistics.median(getattr(each, what) for each in those) for what in ("start_seconds", "loaded_mb")
        )
        rows.append([_TITLES[name], model, f"{start:.1f} s", f"{memory:.0f} MB"])
    title = "What each takes: time from start to first answer, memory of all its processes after load; medians"
    return Table(title, ["", "model", "first answer", "memory"], rows)
