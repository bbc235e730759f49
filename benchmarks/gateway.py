"""Compare the gateway with a direct Predict and with a relay without features, in one run.

    make bench                                     # both models: latency, and processor time at 2 and 8 callers
    make regression                                # a minute: exits with 1 when a ratio is over its bound

Rounds alternate between the contenders, so that a slow machine slows all, and only ratios of one run are judged.

- *latency ratio*: the gateway's median time over that of direct Predict plus decoding, with one caller.
- *processor time*: what a contender's own process takes for a photo, decoding included and the model server excluded,
  under a closed loop of callers; the ratio is the gateway's over the relay's (`benchmarks.relay`).
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator

import click
import numpy as np

from benchmarks.figures import table
from benchmarks.serving import (
    MODELS,
    SIDE,
    alternate,
    closed_loop,
    direct_caller,
    gateway_caller,
    local_stack,
    server_process,
    store_option,
)
from dermserve.imaging import decode
from dermserve.loadtest.scenario import load_photos
from dermserve.local import Stack
from dermserve.local.picture import draw_lesion
from dermserve.local.ports import HOST, free_port

CALLERS = (2, 8)
LATENCY_BOUND = {"none": 2.0, "full": 1.8}
"""Largest latency ratio on mobilenet_v3_small, by TTA mode."""
PROCESSOR_BOUND = {2: 1.7, 8: 1.7}
"""Largest ratio of processor time to the relay's on mobilenet_v3_small, by callers. The goals are 1.1 and 1.0."""


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """One caller; milliseconds, medians of alternating rounds."""

    model: str
    tta: str
    direct: float
    decode: float
    relay: float
    gateway: float
    gateway_p99: float
    ratio: float


@dataclasses.dataclass(frozen=True, slots=True)
class Processor:
    """Several callers, one view; milliseconds of a core a photo and answers a second, medians of rounds."""

    model: str
    callers: int
    relay: float
    relay_answers: float
    gateway: float
    gateway_answers: float
    model_server: float
    """Under the gateway."""
    ratio: float
    """The gateway's processor time over the relay's: the median of the rounds' ratios, and their range."""
    lowest: float
    highest: float


def measure_latency(stack: Stack, relay: str, model: str, tta: str, photo: bytes, rounds: int) -> Latency:
    """Time direct Predict, decoding, the relay and the gateway in alternating rounds of one call."""
    direct = direct_caller(stack.tfs_address, model, 10 if tta == "full" else 1)
    calls = [
        direct,
        lambda photo: decode(photo, height=SIDE, width=SIDE),
        gateway_caller(relay, model, tta),
        gateway_caller(stack.gateway_address, model, tta),
    ]
    times = alternate([functools.partial(call, photo) for call in calls], rounds)
    middle = np.median(times, axis=0).tolist()
    return Latency(model, tta, *middle, float(np.percentile(times[:, 3], 99)), middle[3] / (middle[0] + middle[1]))


def measure_processor(
    stack: Stack, relay: tuple[int, str], model: str, callers: int, photos: tuple[bytes, ...], rounds: int,
    seconds: float,
) -> Processor:  # fmt: skip
    """Load the relay and the gateway in turn and read what their processes take."""
    server, found = stack.pids["modelserver"], []
    for _ in range(rounds):
        row: list[float] = []
        for pid, address in (relay, (stack.pids["gateway"], stack.gateway_address)):
            calls = [gateway_caller(address, model, "none") for _ in range(callers)]
            loop = closed_loop(calls, photos, seconds=seconds, pids=(pid, server))
            row += [loop.processor[pid], loop.answers]
        found.append([*row, loop.processor[server]])
    rows = np.array(found)
    ratios = rows[:, 2] / rows[:, 0]
    spread = [float(each) for each in (np.median(ratios), ratios.min(), ratios.max())]
    return Processor(model, callers, *np.median(rows, axis=0).tolist(), *spread)


def judge(rows: list[Latency | Processor]) -> list[str]:
    """Name the ratios of mobilenet_v3_small that are over their bounds; every bound must be judged by a row."""
    over, judged = [], set()
    for row in [row for row in rows if row.model == "mobilenet_v3_small"]:
        what = row.tta if isinstance(row, Latency) else row.callers
        bound = {**LATENCY_BOUND, **PROCESSOR_BOUND}[what]
        judged.add(what)
        if not row.ratio <= bound:
            over.append(f"{type(row).__name__.lower()} ratio {row.ratio:.2f} at {what} is over {bound}")
    return over + [f"not measured: {what}" for what in {*LATENCY_BOUND, *PROCESSOR_BOUND} - judged]


def measure(
    store: pathlib.Path, models: tuple[str, ...], photos: tuple[bytes, ...], rounds: int, seconds: float
) -> Iterator[Latency | Processor]:
    """Run the local stack and the relay, and measure both kinds of ratios for each model."""
    address = f"{HOST}:{free_port()}"
    with (
        local_stack(store, models) as (stack, _),
        server_process("benchmarks.relay", address, address, stack.tfs_address) as pid,
    ):
        for model in models:
            for tta in LATENCY_BOUND:
                yield measure_latency(stack, address, model, tta, photos[0], rounds)
            for callers in CALLERS:
                yield measure_processor(stack, (pid, address), model, callers, photos, max(3, rounds // 20), seconds)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--photos", "folder", default="", help="Folder of photos. [default: drawn ones]")
@click.option("--rounds", type=click.IntRange(10), default=100, show_default=True, help="Of one call; of load, a 20th.")
@click.option("--seconds", type=click.FloatRange(0.5), default=3.0, show_default=True, help="Of load, each time.")
@click.option("--check", is_flag=True, help="Judge mobilenet_v3_small by the bounds; exit code 1 when over one.")
def main(store: pathlib.Path, models: tuple[str, ...], folder: str, rounds: int, seconds: float, check: bool) -> None:
    """Compare the gateway with a direct Predict and with a relay that has no features."""
    chosen = models or (("mobilenet_v3_small",) if check else MODELS)
    photos = tuple(load_photos(folder, (600,))[:8]) if folder else (draw_lesion(),)
    rows = list(measure(store, chosen, photos, rounds, seconds))
    click.echo(f"photo of {len(photos[0]) / 1000:.0f} kB, {rounds} alternating rounds; milliseconds\n")
    for kind in (Latency, Processor):
        heads = [each.name.replace("_", " ") for each in dataclasses.fields(kind)]
        those = [dataclasses.astuple(row)[:-3] + tuple(f"{v:.2f}" for v in dataclasses.astuple(row)[-3:])
                 for row in rows if isinstance(row, kind)]  # fmt: skip
        click.echo(table(heads, those) + "\n")
    over = judge(rows) if check else []
    if check:
        click.echo("\n".join(over) or "every ratio is within its bound", err=True)
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
