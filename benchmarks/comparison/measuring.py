"""One contender in one round: its start, its answers checked, closed loops of callers, its memory."""

import itertools
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.comparison.calling import Call, caller
from benchmarks.comparison.field import OURS, Contender
from benchmarks.comparison.running import ContenderError, Running, running
from dermserve.loadtest.histogram import Histogram

_FIRST = 180.0
_LEAST = 4
_LOOK = 0.1
TOLERANCE = 2e-3
"""Between a contender's probabilities and the reference's: networks are compiled differently, not alike to the bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    callers: tuple[int, ...]
    kinds: tuple[str, ...]
    """Keys of VIEWS."""
    seconds: float
    """Of each loop."""
    warm_up: float
    """Seconds of calls before each loop, not counted."""
    photos: tuple[bytes, ...]
    weights: pathlib.Path
    environments: pathlib.Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What a closed loop came to; milliseconds."""

    answers: float
    """A second."""
    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One contender, one model, one round."""

    contender: str
    model: str
    start_seconds: float
    """From its start to its first answer."""
    idle_mb: float
    """After the first answers."""
    loaded_mb: float
    """After the loops."""
    loops: Mapping[str, Loop] = field(default_factory=dict)
    """By "KIND/CALLERS", for example "10/8"."""


Reference = Mapping[tuple[str, str], Sequence[Sequence[float]]]
"""Each photo's probabilities by model and kind."""


def visit(contender: Contender, model: str, plan: Plan, reference: Reference, say: Callable[[str], None]) -> Visit:
    """Start a contender, check it, measure it, stop it.

    Raises:
        ContenderError: it does not start, or answers something else than the reference.
    """
    with running(contender, model, weights=plan.weights, environments=plan.environments) as server:
        _answer_first(contender, server, model, plan.photos[0])
        start = time.monotonic() - server.started
        for kind in ("1", "10"):
            _check(contender, server, model, kind, plan, reference)
        idle = server.megabytes()
        loops = {}
        kinds = [kind for kind in plan.kinds if kind != "adaptive" or contender.name == OURS]
        for kind, callers in itertools.product(kinds, plan.callers):
            loop = _loop(contender, server, model, kind, callers, plan)
            loops[f"{kind}/{callers}"] = loop
            say(f"    {kind} view(s), {callers} callers: {loop.answers:.1f}/s, {_times(loop)}")
        return Visit(
            contender=contender.name,
            model=model,
            start_seconds=start,
            idle_mb=idle,
            loaded_mb=server.megabytes(),
            loops=loops,
        )


def _answer_first(contender: Contender, server: Running, model: str, photo: bytes) -> None:
    """Wait for the first answer; some listen before their model is there, and refuse calls until then."""
    while True:
        try:
            caller(contender, server.address, model, "1")(photo)
            return
        except ContenderError:
            if time.monotonic() - server.started > _FIRST:
                raise
            time.sleep(_LOOK)


def _times(loop: Loop) -> str:
    return f"p50 {loop.p50:.0f} ms, p99 {loop.p99:.0f} ms"


def _check(contender: Contender, server: Running, model: str, kind: str, plan: Plan, reference: Reference) -> None:
    call = caller(contender, server.address, model, kind)
    for index, (photo, expected) in enumerate(zip(plan.photos, reference[model, kind], strict=True)):
        off = float(np.abs(np.subtract(call(photo), expected)).max())
        if off > TOLERANCE:
            raise ContenderError(
                f"{contender.title} answers something else for {model}, {kind} view(s), photo {index}: "
                f"a probability is off by {off:.4f}; nothing it does can be compared"
            )


def _loop(contender: Contender, server: Running, model: str, kind: str, callers: int, plan: Plan) -> Loop:
    """Let callers call again at once for a while, and for as long as it takes that each could have answered."""
    calls = [caller(contender, server.address, model, kind) for _ in range(callers)]
    begin = time.perf_counter() + plan.warm_up
    work = _Work(begin=begin, end=begin + plan.seconds, least=max(callers, _LEAST), photos=plan.photos)
    threads = [
        threading.Thread(target=work.call_on, args=(call, number), daemon=True) for number, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if work.faults:
        raise ContenderError(f"{contender.title}, {model}, {kind} view(s), {callers} callers: {work.faults[0]}")
    return work.outcome()


@dataclass(kw_only=True, slots=True)
class _Work:
    """What callers share."""

    begin: float
    """Of what counts; time.perf_counter."""
    end: float
    """Not before."""
    least: int
    """Answers to wait for beyond the end: a slow answer takes longer than the whole loop otherwise."""
    photos: Sequence[bytes]
    answered: list[tuple[float, float]] = field(default_factory=list)
    """When, and seconds it took."""
    faults: list[BaseException] = field(default_factory=list)

    def call_on(self, call: Call, offset: int) -> None:
        try:
            for photo in itertools.islice(itertools.cycle(self.photos), offset % len(self.photos), None):
                started = time.perf_counter()
                if self.faults or (started >= self.end and len(self.answered) >= self.least):
                    return
                call(photo)
                ended = time.perf_counter()
                if ended >= self.begin:
                    self.answered.append((ended, ended - started))
        except BaseException as error:
            self.faults.append(error)

    def outcome(self) -> Loop:
        """Count answers up to the end, or to the last that was waited for; later ones had fewer rivals."""
        times = sorted(ended for ended, _ in self.answered)
        end = max(self.end, times[self.least - 1])
        seen = Histogram()
        for ended, took in self.answered:
            if ended <= end:
                seen.add(took * 1000)
        return Loop(answers=seen.total / (end - self.begin), p50=seen.quantile(0.5), p99=seen.quantile(0.99))


def references(plan: Plan, contender: Contender, models: Sequence[str]) -> Reference:
    """Ask the reference, which is dermserve itself, for every photo's probabilities.

    Raises:
        ContenderError: its answers don't tell photos apart, so that they could not tell contenders apart either.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for model in models:
        with running(contender, model, weights=plan.weights, environments=plan.environments) as server:
            for kind in ("1", "10"):
                call = caller(contender, server.address, model, kind)
                found[model, kind] = [call(photo) for photo in plan.photos]
            if float(np.ptp(np.array(found[model, "1"]), axis=0).max()) < TOLERANCE:
                raise ContenderError(f"{model} says the same of all photos: take others, or weights that were trained")
    return found
