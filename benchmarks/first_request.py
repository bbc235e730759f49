"""Compare the first request after loading with those that follow, with and without warm-up.

Each measurement is a fresh process of the local model server, with and without warm-up in turn. `ratio` is the first
request's time over the median of the next ones; with warm-up it should not be above 1.5.

    python benchmarks/first_request.py
"""

import dataclasses
import itertools
import json
import pathlib
import re
import statistics
import sys
import time

import click
import grpc
from served_graph import MODELS, PREDICT, UNLIMITED, predict_request

from dermserve.local.child import Child
from dermserve.local.store import ensure_models
from dermserve.tfserving.v1 import serving_pb2

_READY = re.compile(r"Running gRPC ModelServer at (\S+:\d+)")
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_TIMEOUT = 180.0
_NEXT = 20


@dataclasses.dataclass(frozen=True)
class First:
    """One start."""

    load_seconds: float
    first_ms: float
    median_ms: float

    @property
    def ratio(self) -> float:
        """The first over the median of the next."""
        return self.first_ms / self.median_ms


def measure(store: pathlib.Path, model: str, *, batch: int, warm: bool) -> First:
    """Start a server and time its first requests."""
    flags = ["--port=0", f"--model_name={model}", f"--model_base_path={(store / model).resolve()}"]
    command = [sys.executable, "-m", "dermserve.modelserver", *flags, f"--enable_model_warmup={str(warm).lower()}"]
    started = time.perf_counter()
    env = {"MALLOC_ARENA_MAX": "1", "PYTHONUNBUFFERED": "1"}
    server = Child(command, name="model server", log=lambda line: None, ready=_READY, env=env)
    try:
        address = server.wait_ready(timeout=_TIMEOUT)[1]
        loaded = time.perf_counter() - started
        with grpc.insecure_channel(address, options=UNLIMITED) as channel:
            status = serving_pb2.GetModelStatusRequest(model_spec=serving_pb2.ModelSpec(name=model))
            channel.unary_unary(_STATUS)(status.SerializeToString(), timeout=_TIMEOUT)  # connected from here on
            predict, request = channel.unary_unary(PREDICT), predict_request(model, batch)
            times = []
            for _ in range(1 + _NEXT):
                began = time.perf_counter()
                predict(request, timeout=_TIMEOUT)
                times.append((time.perf_counter() - began) * 1000)
    finally:
        server.stop(grace=30)
    return First(loaded, times[0], statistics.median(times[1:]))


@click.command()
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Starts of each row.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def main(store: pathlib.Path, models: tuple[str, ...], rounds: int, as_json: bool) -> None:
    """Time the first request after loading, for one view and ten, with and without warm-up."""
    ensure_models(store, models, say=lambda line: click.echo(line, err=True))
    if not as_json:
        click.echo(f"medians of {rounds} starts\n")
        click.echo(
            "| model | images | warm-up | start s | first ms | median ms | ratio |\n|---|---|---|---|---|---|---|"
        )
    for model, batch in itertools.product(models, (1, 10)):
        found: dict[bool, list[First]] = {True: [], False: []}
        for _, warm in itertools.product(range(rounds), (True, False)):
            found[warm].append(measure(store, model, batch=batch, warm=warm))
        for warm, firsts in found.items():
            start, first, median, ratio = (
                statistics.median(getattr(one, field) for one in firsts)
                for field in ("load_seconds", "first_ms", "median_ms", "ratio")
            )
            row = {"model": model, "images": batch, "warm_up": warm, "start_seconds": start}
            row |= {"first_ms": first, "median_ms": median, "ratio": ratio, "rounds": rounds}
            times = f"{start:.1f} | {first:.1f} | {median:.1f} | {ratio:.2f}"
            words = f"| {model} | {batch} | {'yes' if warm else 'no'} | {times} |"
            click.echo(json.dumps(row) if as_json else words)


if __name__ == "__main__":
    main()
