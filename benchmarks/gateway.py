"""Compare the gateway with a direct Predict and with a relay without features, in one run.

    make bench                      # both models, and the edge: latency, and processor time of callers
    make regression                 # a minute: fails when a ratio is over its bound (tests/benchmarks/regression.py)

Rounds alternate between the contenders, so that a slow machine slows all, and only ratios of one run are judged.

- *latency ratio*: the gateway's median time over that of direct Predict plus decoding, with one caller.
- *processor time*: what a contender's own process takes for a photo, decoding included and the model server excluded,
  under a closed loop of callers; the ratio is the gateway's over the relay's (`benchmarks.relay`).
- *edge*: the median time of gRPC through Envoy, of a photo as an HTTP body, and of JSON with base64, over connections
  that stay open; the ratio is to that of gRPC without Envoy.
"""

import base64
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import numpy as np

from benchmarks import serving
from benchmarks.figures import table
from benchmarks.serving import MODELS, alternate, closed_loop, gateway_caller, http_caller, store_option
from dermserve.edge import Settings
from dermserve.imaging import decode
from dermserve.loadtest.drive import Server, local_server
from dermserve.local import DRAWN
from dermserve.local.edge import Edge

CALLERS = (2, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured for one model: medians of the rounds."""

    model: str
    what: str  # the TTA mode of one caller, the number of callers with one view, or a way in
    numbers: dict[str, float]  # milliseconds a call, or of a core a photo, and answers a second
    ratio: float


def measure_latency(server: Server, relay: str, model: str, tta: str, photo: bytes, rounds: int) -> Row:
    """Time direct Predict, decoding, the relay and the gateway in alternating rounds of one call."""
    direct = serving.direct_caller(server.tfs_address, model, 10 if tta == "full" else 1)
    calls = {
        "direct": direct,
        "decode": lambda photo: decode(photo, height=serving.SIDE, width=serving.SIDE),
        "relay": gateway_caller(relay, model, tta),
        "gateway": gateway_caller(server.target, model, tta),
    }
    times = alternate([functools.partial(call, photo) for call in calls.values()], rounds)
    found = dict(zip(calls, np.median(times, axis=0).tolist(), strict=True))
    ratio = found["gateway"] / (found["direct"] + found["decode"])
    return Row(model, tta, {**found, "gateway p99": float(np.percentile(times[:, 3], 99))}, ratio)


def measure_processor(
    server: Server, relay: tuple[int, str], model: str, callers: int, photos: tuple[bytes, ...], rounds: int,
    seconds: float,
) -> Row:  # fmt: skip
    """Load the relay and the gateway in turn and read what their processes take; the ratio is taken in each round."""
    model_server, found = server.pids["modelserver"], []
    for _ in range(rounds):
        row: list[float] = []
        for pid, address in (relay, (server.pids["gateway"], server.target)):
            calls = [gateway_caller(address, model, "none") for _ in range(callers)]
            loop = closed_loop(calls, photos, seconds=seconds, pids=(pid, model_server))
            row += [loop.processor[pid], loop.answers]
        found.append([*row, loop.processor[model_server], row[2] / row[0]])
    *numbers, ratio = np.median(found, axis=0).tolist()
    names = ("relay", "relay answers", "gateway", "gateway answers", "model server")
    spread = {"lowest ratio": min(row[-1] for row in found), "highest ratio": max(row[-1] for row in found)}
    return Row(model, f"{callers} callers", {**dict(zip(names, numbers, strict=True)), **spread}, ratio)


def measure_edge(server: Server, store: pathlib.Path, model: str, photo: bytes, rounds: int) -> Iterator[Row]:
    """Time gRPC to the gateway, and the ways through Envoy, in alternating rounds of one call."""
    path, as_json = f"/v1/models/{model}:classify", json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    many = {"requests_per_minute": 6_000_000, "burst": 1_000_000}
    with Edge(Settings(gateway=server.target, listen="127.0.0.1:0", **many), store=store) as edge:
        address = edge.url.removeprefix("http://")
        calls = {
            "gRPC to the gateway": functools.partial(gateway_caller(server.target, model, "none"), photo),
            "gRPC through the edge": functools.partial(gateway_caller(address, model, "none"), photo),
            "photo as the HTTP body": functools.partial(http_caller(address, path, "image/jpeg"), photo),
            "JSON with base64": functools.partial(http_caller(address, path, "application/json"), as_json),
        }
        times = np.percentile(alternate(list(calls.values()), rounds), [50, 99], axis=0).T.tolist()
    for name, (p50, p99) in zip(calls, times, strict=True):
        yield Row(model, name, {"p50": p50, "p99": p99}, p50 / times[0][0])


def measure(
    store: pathlib.Path, models: tuple[str, ...], photos: tuple[bytes, ...], rounds: int, seconds: float, *,
    with_edge: bool = False,
) -> Iterator[Row]:  # fmt: skip
    """Run the local stack and the relay, and measure all ratios for each model."""
    with (
        local_server(store, models) as server,
        serving.server_process("benchmarks.relay", server.tfs_address) as relay,
    ):
        for model in models:
            for tta in ("none", "full"):
                yield measure_latency(server, relay[1], model, tta, photos[0], rounds)
            for callers in CALLERS:
                yield measure_processor(server, relay, model, callers, photos, max(3, rounds // 20), seconds)
        if with_edge:
            yield from measure_edge(server, store, models[-1], photos[0], 3 * rounds)


def tables(rows: Sequence[Row]) -> str:
    """Write a Markdown table for each kind of row."""
    found = []
    for head, those in itertools.groupby(sorted(rows, key=lambda row: len(row.numbers)), lambda row: [*row.numbers]):
        lines = [
            [row.model, row.what, *(f"{each:.2f}" for each in (*row.numbers.values(), row.ratio))] for row in those
        ]
        found.append(table(["model", "", *head, "ratio"], lines))
    return "\n\n".join(found)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--rounds", type=click.IntRange(10), default=100, show_default=True, help="Of one call; of load, a 20th.")
@click.option("--seconds", type=click.FloatRange(0.5), default=3.0, show_default=True, help="Of load, each time.")
@click.option("--edge", "with_edge", is_flag=True, help="Measure what the edge adds, too.")
def main(store: pathlib.Path, models: tuple[str, ...], rounds: int, seconds: float, with_edge: bool) -> None:
    """Compare the gateway with a direct Predict and with a relay that has no features."""
    photo = (DRAWN / "0.jpg").read_bytes()
    rows = list(measure(store, models or MODELS, (photo,), rounds, seconds, with_edge=with_edge))
    click.echo(f"photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds; milliseconds\n")
    click.echo(tables(rows))


if __name__ == "__main__":
    main()
