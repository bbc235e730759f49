"""Compare the first Predict after loading with the next ones, with and without warm-up.

    python -m benchmarks.first_request

Each measurement is a fresh process of the local model server, with and without warm-up in turn. `ratio` is the first
request's time over the median of the next ones; with warm-up it should not be above 1.5.
"""

import itertools
import pathlib
import statistics
import time

import click
import numpy as np

from benchmarks.figures import table
from benchmarks.serving import MODELS, alternate, direct_caller, model_server, store_option
from dermserve.local.picture import draw_lesion
from dermserve.local.store import ensure_models

_NEXT = 20
_HEADS = ("model", "images", "warm_up", "start_seconds", "first_ms", "median_ms", "ratio")


def measure(store: pathlib.Path, model: str, *, views: int, warm: bool) -> tuple[float, float, float, float]:
    """Start a server and time its first requests: seconds of the start, milliseconds of first and median, ratio."""
    started, photo = time.perf_counter(), draw_lesion()
    with model_server(store / model, f"--enable_model_warmup={str(warm).lower()}") as (_, address):
        loaded = time.perf_counter() - started
        call = direct_caller(address, model, views, (photo,))
        times = alternate([lambda: call(photo)], 1 + _NEXT, warm_up=0)[:, 0]
    median = float(np.median(times[1:]))
    return loaded, float(times[0]), median, float(times[0]) / median


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Starts of each row.")
def main(store: pathlib.Path, models: tuple[str, ...], rounds: int) -> None:
    """Time the first request after loading, for one view and ten, with and without warm-up."""
    ensure_models(store, models, say=lambda line: click.echo(line, err=True))
    rows = []
    for model, views in itertools.product(models, (1, 10)):
        found: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
        for _, warm in itertools.product(range(rounds), (True, False)):
            found[warm].append(measure(store, model, views=views, warm=warm))
        rows += [(model, views, warm, *map(statistics.median, zip(*of, strict=True))) for warm, of in found.items()]
    click.echo(f"medians of {rounds} starts\n\n{table(_HEADS, rows)}")


if __name__ == "__main__":
    main()
