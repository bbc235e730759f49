"""Measure what the edge adds to a call, in one run (`make bench`).

Rounds alternate between gRPC to the gateway, and through Envoy gRPC, a photo as an HTTP body and JSON with base64, over
connections that stay open. `ratio` is the median over that of gRPC to the gateway.
"""

import base64
import functools
import json
import pathlib

import click
import numpy as np

from benchmarks.figures import table
from benchmarks.serving import alternate, gateway_caller, http_caller, store_option
from dermserve.edge import Settings
from dermserve.loadtest.drive import local_server
from dermserve.local.edge import Edge
from dermserve.local.picture import drawn_lesion

_MODEL = "mobilenet_v3_small"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--rounds", type=click.IntRange(10), default=300, show_default=True)
def main(store: pathlib.Path, rounds: int) -> None:
    """Measure what the edge adds."""
    photo = drawn_lesion()
    as_json = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    path = f"/v1/models/{_MODEL}:classify"
    many = {"requests_per_minute": 6_000_000, "burst": 1_000_000}
    with (
        local_server(store, [_MODEL]) as server,
        Edge(Settings(gateway=server.target, listen="127.0.0.1:0", **many), store=store) as edge,
    ):
        address = edge.url.removeprefix("http://")
        calls = {
            "gRPC to the gateway": functools.partial(gateway_caller(server.target, _MODEL, "none"), photo),
            "gRPC through the edge": functools.partial(gateway_caller(address, _MODEL, "none"), photo),
            "photo as the HTTP body": functools.partial(http_caller(address, path, "image/jpeg"), photo),
            "JSON with base64": functools.partial(http_caller(address, path, "application/json"), as_json),
        }
        p50, p99 = np.percentile(alternate(list(calls.values()), rounds, warm_up=10), [50, 99], axis=0)
    rows = [(name, p50[at], p99[at], f"{p50[at] / p50[0]:.2f}") for at, name in enumerate(calls)]
    click.echo(f"{_MODEL}, photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds, milliseconds\n")
    click.echo(table(["call", "p50", "p99", "ratio of p50 to gRPC without the edge"], rows))


if __name__ == "__main__":
    main()
