"""The gateway beside other ways to serve the same weights, on one machine, in one run (see README.md).

make comparison        # everything, three rounds: an hour or more on two idle cores
python -m benchmarks.comparison --contender fastapi --model mobilenet_v3_small --rounds 1 --seconds 1 --callers 2
python -m benchmarks.comparison --graphs --seconds 1 --callers 1 --callers 2 --callers 8   # half an hour
"""

import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import click
import numpy as np
import psutil

from benchmarks.comparison import contenders as compared
from benchmarks.comparison.contenders import FIELD, GRAPHS, ONE, OURS, TEN, Contender, ContenderError, Kind
from benchmarks.figures import Table, report
from benchmarks.networks import ensure_networks
from benchmarks.serving import MODELS, Loop, closed_loop
from dermserve.cli.root import ends_by_interrupt
from dermserve.loadtest.drive import say
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.scenario import load_photos

_TOLERANCE = 2e-3
"""Between a contender's probabilities and the reference's: networks are compiled differently, not alike to the bit."""
_OUT = pathlib.Path("build/comparison")  # for environments, weights and figures.json
_MOST_CALLERS = {"resnet50": 8}  # 32 would wait so long for ten views that the gateway refuses some
Reference = Mapping[Kind, Sequence[Sequence[float]]]  # each photo's probabilities


class Visit(NamedTuple):
    """One contender, one model, one round."""

    contender: Contender
    model: str
    start: float  # seconds from its start to its first answer
    first: float  # milliseconds of that call
    memory: float  # of all its processes after the loops, in MB
    loops: Mapping[tuple[Kind, int], Loop]  # by kind and callers


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is measured of every contender."""

    folder: pathlib.Path  # of environments and weights
    base: Contender  # whose answers are right, and whose rate is compared with the others'
    callers: tuple[int, ...]
    seconds: float  # of each loop
    photos: Sequence[bytes]

    def visits(self, contenders: Sequence[Contender], models: Sequence[str], rounds: int) -> Iterator[Visit]:
        """Measure everything, round by round. Raises ContenderError: one does not start, or answers something else."""
        references = {model: self._reference(model) for model in models}
        for index in range(rounds):
            # Each round begins with another, so that a machine that warms up or fills disturbs nobody in particular.
            turn = index % len(contenders)
            for model, contender in itertools.product(models, (*contenders[turn:], *contenders[:turn])):
                say(f"round {index + 1} of {rounds}, {model}, {contender.title}")
                yield self._visit(contender, model, references[model])

    def _reference(self, model: str) -> Reference:
        with compared.running(self.base, model, self.folder) as (address, _):
            found = {kind: [compared.make_caller(self.base, address, model, kind)(photo) for photo in self.photos]
                     for kind in (ONE, TEN)}  # fmt: skip
        if float(np.ptp(np.array(found[ONE]), axis=0).max()) < _TOLERANCE:  # so that contenders can't be told apart
            raise ContenderError(f"{model} says the same of all photos: take others, or weights that were trained")
        return found

    def _visit(self, contender: Contender, model: str, reference: Reference) -> Visit:
        started, loops = time.monotonic(), {}
        with compared.running(contender, model, self.folder) as (address, pids):
            ready = time.monotonic()
            compared.make_caller(contender, address, model, ONE)(self.photos[0])
            start, first = time.monotonic() - started, (time.monotonic() - ready) * 1000
            for kind in set(contender.kinds) & reference.keys():
                self._check(contender, address, model, kind, reference)
            counts = dict.fromkeys(min(each, _MOST_CALLERS.get(model, each)) for each in self.callers)
            for kind, callers in itertools.product(contender.kinds, counts):
                calls = [compared.make_caller(contender, address, model, kind) for _ in range(callers)]
                loop = closed_loop(calls, self.photos, seconds=self.seconds, warm_up=min(2.0, self.seconds))
                loops[kind, callers] = loop
                say(f"    {kind.title}, {callers} callers: {loop.answers:.1f}/s, p99 {loop.p99:.0f} ms")
            return Visit(contender, model, start, first, megabytes(pids), loops)

    def _check(self, contender: Contender, address: str, model: str, kind: Kind, reference: Reference) -> None:
        """Compare answers with the reference; one with a decoder of its own must give probabilities, not the same."""
        call = compared.make_caller(contender, address, model, kind)
        for index, (photo, expected) in enumerate(zip(self.photos, reference[kind], strict=True)):
            found = call(photo)
            off = abs(sum(found) - 1) if contender.documented else float(np.abs(np.subtract(found, expected)).max())
            if off > _TOLERANCE or len(found) != len(expected):
                raise ContenderError(
                    f"{contender.title} answers something else for {kind.title}, photo {index}: "
                    f"a probability is off by {off:.4f}; nothing it does can be compared"
                )


def megabytes(pids: Sequence[int]) -> float:
    """Give the memory of processes and their children, shared pages counted once, in MB."""
    family = {each for pid in pids for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))}
    return sum(each.memory_full_info().pss for each in family) / 1e6


def tables(visits: Sequence[Visit], base: Contender) -> Iterator[Table]:
    """Make a table for each model and kind, and one of costs: medians over rounds, ratios taken within a round."""
    field, models = (dict.fromkeys(getattr(each, what) for each in visits) for what in ("contender", "model"))
    for model, kind in itertools.product(models, base.kinds):
        those = {one: [each.loops for each in visits if (each.contender, each.model) == (one, model)] for one in field}
        cells = [cell for cell in those[base][0] if cell[0] == kind]
        rows = [[one.title, *(_cell(one == base, loops, those[base], cell) for cell in cells)]
                for one, loops in those.items() if kind in one.kinds]  # fmt: skip
        title = (
            f"{model}, {kind.title}: answers a second, p99 in ms, and in brackets the rate of {base.title} over theirs"
            " (median of the rounds' ratios, and their range)"
        )
        yield Table(title, ["", *(f"{callers} callers" for _, callers in cells)], rows)
    costs = []
    for one, model in itertools.product(field, models):
        found = [each[2:5] for each in visits if (each.contender, each.model) == (one, model)]
        start, first, memory = map(statistics.median, zip(*found, strict=True))
        costs.append([one.title, model, f"{start:.1f} s", f"{first:.0f} ms", f"{memory:.0f} MB"])
    title = "What each takes: time from start to first answer, that call, memory of its processes after load; medians"
    yield Table(title, ["", "model", "first answer", "first call", "memory"], costs)


Loops = Sequence[Mapping[tuple[Kind, int], Loop]]  # of each round


def _cell(is_base: bool, theirs: Loops, base: Loops, cell: tuple[Kind, int]) -> str:
    rate, p99 = (statistics.median(getattr(loops[cell], what) for loops in theirs) for what in ("answers", "p99"))
    ratios = [ours[cell].answers / their[cell].answers for ours, their in zip(base, theirs, strict=True)]
    text = f"{rate:.1f}/s, {p99:.0f} ms"
    return text if is_base else f"{text} ({statistics.median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f})"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--contender", "names", multiple=True, type=click.Choice([each.name for each in (*FIELD, *GRAPHS)]),
              help="Whom to compare; repeatable. [default: all]")  # fmt: skip
@click.option("--graphs", is_flag=True, help="Compare graphs and flags of the model server, not whole services.")
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, show_default=True, help="Of each cell.")
@click.option("--callers", multiple=True, type=click.IntRange(1), default=(2, 8, 32), show_default=True,
              help="Repeatable; ResNet-50 has at most 8.")  # fmt: skip
@click.option("--photos", help="Folder of photos. [default: eight drawn ones]")
def main(
    names: tuple[str, ...], graphs: bool, models: tuple[str, ...], rounds: int, seconds: float,
    callers: tuple[int, ...], photos: str | None,
) -> None:  # fmt: skip
    """Compare dermserve with other ways to serve the same weights, on this machine."""
    models, field = models or MODELS, GRAPHS if graphs else FIELD
    if strange := {*names} - {each.name for each in field}:
        raise click.UsageError(f"{min(strange)} is compared {'without' if graphs else 'with'} --graphs")
    (base,) = (each for each in field if each.name in {OURS, GRAPHS[0].name})
    contenders = [each for each in field if not names or each.name in {*names, base.name}]
    shown = load_photos(photos, (1024,))[:8]
    study = Study(folder=_OUT.resolve(), base=base, callers=callers, seconds=seconds, photos=shown)
    machine = describe_machine()
    with ends_by_interrupt():
        for contender in contenders:
            if contender.environment:
                say(f"the environment of {contender.title} (when it is new: minutes, 2 GB)")
                compared.make_environment(contender, study.folder / "venvs")
        ensure_networks(study.folder / "weights", models)
        visits = list(study.visits(contenders, models, rounds))
    notes = [f"{each.title}: {each.configuration}" for each in contenders]
    plan = f"{rounds} rounds, {seconds:g} s a cell"
    click.echo(report(list(tables(visits, base)), machine, plan=plan, notes=notes, out=_OUT))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparison")
