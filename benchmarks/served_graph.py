"""Compare ways to serve the same network in one run: speed, memory and the difference of their answers.

    python -m benchmarks.served_graph --rounds 1 --seconds 0.2 --model mobilenet_v3_small # to see that it works

A new model server serves each variant, in rounds; a cell is the median over the rounds. `first ×` is the time of the
first request, of ten images, as a multiple of the median of the next ones; with warm-up it should not be above 1.5.
`frozen is faster by` is the ratio of the frozen graph's images a second to the variant's, with one caller and one
image. Copy figures.json to docs/figures/served_graph.json to have the docs show the run.
"""

import itertools
import os
import pathlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
import psutil

from benchmarks.figures import Table, report
from benchmarks.networks import FOLDED, FROZEN, VARIABLES, ensure_networks
from benchmarks.serving import MODELS, alternate, closed_loop, direct_caller, server_process
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.scenario import load_photos
from dermserve.modelserver.flags import usable_cores

LOADS = tuple(itertools.product((1, 10), (1, 2, 8)))  # images a request and callers
_ONE = ("--tensorflow_intra_op_parallelism=1", f"--tensorflow_inter_op_parallelism={usable_cores()}")
_NEXT = 10
_OUT = pathlib.Path("build/served_graph")  # for the graphs and figures.json
_ARENA = {"MALLOC_ARENA_MAX": "1"}
VARIANTS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "variables": (VARIABLES, (), _ARENA),
    "variables, batch norm folded": (FOLDED, (), _ARENA),
    "variables, folded, intra-op 1": (FOLDED, _ONE, _ARENA),
    "frozen": (FROZEN, (), _ARENA),
    "frozen, intra-op 1": (FROZEN, _ONE, _ARENA),
    "frozen, intra-op 1, many arenas": (FROZEN, _ONE, {}),
    "frozen, intra-op 1, no warm-up": (FROZEN, (*_ONE, "--enable_model_warmup=false"), _ARENA),
    "frozen, intra-op 1, no oneDNN": (FROZEN, _ONE, {**_ARENA, "TF_ENABLE_ONEDNN_OPTS": "0"}),
}
"""By name: the graph, the server's flags and its environment."""


@dataclass(frozen=True)
class Measured:
    """One variant in one round."""

    start_seconds: float
    resident_mb: float  # after all loads
    first: float  # time of the first request, as a multiple of the median of the next ones
    probabilities: list[float]
    images: list[float]  # a second, by load
    p50: list[float]  # milliseconds, by load


def measure(variant: str, model: str, photo: bytes, seconds: float) -> Measured:
    """Start a server, load it in every way, end it."""
    started, loops = time.perf_counter(), []
    graph, flags, env = VARIANTS[variant]
    flags = (f"--model_name={model}", f"--model_base_path={(_OUT / graph / model).resolve()}", *flags)
    with server_process("dermserve.modelserver", "--port=0", "--grpc_max_threads=64", *flags, **env) as (pid, address):
        start = time.perf_counter() - started
        ask = direct_caller(address, model, 10, (photo,))
        times = alternate([lambda: ask(photo)], 1 + _NEXT, warm_up=0)[:, 0]
        answer = direct_caller(address, model, 1)(photo)
        for images, callers in LOADS:
            calls = [direct_caller(address, model, images, (photo,)) for _ in range(callers)]
            loops.append(closed_loop(calls, (photo,), seconds=seconds, warm_up=min(1.0, seconds)))
        resident = psutil.Process(pid).memory_info().rss / 1e6
    rates = [loop.answers * images for loop, (images, _) in zip(loops, LOADS, strict=True)]
    return Measured(start, resident, times[0] / np.median(times[1:]), answer, rates, [loop.p50 for loop in loops])


def _row(variant: str, of: Sequence[Measured], frozen: Sequence[Measured]) -> dict[str, object]:
    """Take medians over the rounds; the ratio is taken within each."""
    images, p50 = (np.median([getattr(one, field) for one in of], axis=0) for field in ("images", "p50"))
    loads = {f"{load[0]} × {load[1]}": f"{images[at]:.1f} ({p50[at]:.1f})" for at, load in enumerate(LOADS)}
    ratios = [base.images[0] / one.images[0] for base, one in zip(frozen, of, strict=True)]
    return {
        "variant": variant, **loads,
        "MB": round(statistics.median(one.resident_mb for one in of)),
        "start s": statistics.median(one.start_seconds for one in of),
        "first ×": round(statistics.median(one.first for one in of), 2),
        "frozen is faster by": round(statistics.median(ratios), 2),
        "differs by": f"{np.abs(np.subtract(of[0].probabilities, frozen[0].probabilities)).max():.1g}",
    }  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=0.8, show_default=True, help="Of each load.")
def main(models: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Compare ways of serving both models: images a second (p50 in ms) for images a request × callers."""
    (photo,) = load_photos("", (224,))[:1]
    machine, tables = describe_machine(), []
    os.environ.pop("MALLOC_ARENA_MAX", None)  # each variant has its own
    ensure_networks(_OUT, models)
    for model in models:
        found: dict[str, list[Measured]] = {variant: [] for variant in VARIANTS}
        for turn, variant in itertools.product(range(rounds), VARIANTS):
            click.echo(f"round {turn + 1} of {rounds}, {model}, {variant}", err=True)
            found[variant].append(measure(variant, model, photo, seconds))
        rows = [_row(variant, of, found["frozen"]) for variant, of in found.items()]
        title = f"{model}: images/s (p50 in ms) for images a request × callers"
        tables.append(Table(title, list(rows[0]), [list(row.values()) for row in rows]))
    plan = f"{rounds} rounds, {seconds:g} s a load"
    click.echo(report("served_graph", tables, machine, plan=plan, out=_OUT))


if __name__ == "__main__":
    main()
