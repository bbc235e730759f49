"""What the gateway adds to TensorFlow Serving: direct Predict, decode, and the whole way, side by side in one run.

    make bench                              # starts the local stack, all four cases
    python benchmarks/gateway.py --json     # the same for machines

For each model and TTA mode, rounds alternate between the three, so that a noisy machine disturbs all alike. `direct`
sends the same pixels the gateway would; the ratio is the gateway's median over direct's plus decode's.
"""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import click
import grpc
import numpy as np
import psutil

from dermserve.client import Client
from dermserve.contract import Input, Signature
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.local import Stack
from dermserve.local.health import wait_serving
from dermserve.local.picture import draw_lesion
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2

_SIDE = 224
_WARM_UP = 5
_STARTS = 5
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row of the table; times in milliseconds."""

    model: str
    tta: str
    direct_p50: float
    direct_p99: float
    decode_p50: float
    gateway_p50: float
    gateway_p99: float

    @property
    def ratio(self) -> float:
        """The gateway's median over direct Predict's plus decode's."""
        return self.gateway_p50 / (self.direct_p50 + self.decode_p50)


def _predict_request(model: str, photo: bytes, tta: str) -> serving_pb2.PredictRequest:
    views = STANDARD_VIEWS if tta == "full" else STANDARD_VIEWS[:1]
    pixels = make_views(decode(photo, height=_SIDE, width=_SIDE).pixels, views)
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_content=pixels.tobytes())
    tensor.tensor_shape.dim.extend(tensor_pb2.TensorShapeProto.Dim(size=size) for size in pixels.shape)
    spec = serving_pb2.ModelSpec(name=model, signature_name=Signature.SERVING_DEFAULT)
    return serving_pb2.PredictRequest(model_spec=spec, inputs={Input.IMAGES.value: tensor})


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _measure(channel: grpc.Channel, client: Client, model: str, tta: str, photo: bytes, rounds: int) -> Case:
    predict = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=serving_pb2.PredictRequest.SerializeToString,
        response_deserializer=serving_pb2.PredictResponse.FromString,
    )
    request = _predict_request(model, photo, tta)
    calls: tuple[Callable[[], object], ...] = (
        lambda: predict(request),
        lambda: decode(photo, height=_SIDE, width=_SIDE),
        lambda: client.classify(photo, model=model, tta=tta),
    )
    times = np.array([[_timed(call) for call in calls] for _ in range(_WARM_UP + rounds)])[_WARM_UP:]
    p50, p99 = np.percentile(times, [50, 99], axis=0)
    return Case(model, tta, p50[0], p99[0], p50[1], p50[2], p99[2])


def _start_seconds(tfs_address: str, models: tuple[str, ...]) -> float:
    """Start one more gateway before a model server that is ready; return the seconds until it says SERVING."""
    chosen = [f"--model={model}" for model in models]
    command = [sys.executable, "-m", "dermserve.gateway", "--listen", "127.0.0.1:0", "--tfs", tfs_address, *chosen]
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        address = next(event["address"] for event in events if event["event"] == "listening")
        wait_serving(address, timeout=30, children=())
        seconds = time.perf_counter() - started
        process.terminate()
        process.communicate()
    return seconds


def _print_table(cases: list[Case], starts: list[float], resident: float, photo: bytes, rounds: int) -> None:
    click.echo(f"photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds a row, milliseconds\n")
    click.echo("| model | TTA | direct p50 | direct p99 | decode p50 | gateway p50 | gateway p99 | ratio |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for case in cases:
        times = (case.direct_p50, case.direct_p99, case.decode_p50, case.gateway_p50, case.gateway_p99)
        row = [case.model, case.tta.upper(), *(f"{value:.1f}" for value in times), f"{case.ratio:.2f}"]
        click.echo(f"| {' | '.join(row)} |")
    click.echo(f"\ngateway SERVING {statistics.median(starts):.2f} s after its start (median of {len(starts)})")
    click.echo(
        f"gateway process afterwards: {resident:.0f} MB resident; ratio is gateway p50 / (direct p50 + decode p50)"
    )


@click.command()
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--photo", "photo_file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--rounds", type=click.IntRange(10), default=100, show_default=True, help="Of each row.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def main(store: pathlib.Path, photo_file: pathlib.Path | None, rounds: int, as_json: bool) -> None:
    """Compare the gateway with a direct Predict, for both models, single view and FULL."""
    photo = photo_file.read_bytes() if photo_file else draw_lesion()
    models = ("resnet50", "mobilenet_v3_small")
    with (
        Stack(store=store, models=models, port=0, tfs_port=0) as stack,
        grpc.insecure_channel(stack.tfs_address, options=_UNLIMITED) as channel,
        Client(stack.gateway_address) as client,
    ):
        cases = [_measure(channel, client, model, tta, photo, rounds) for model in models for tta in ("none", "full")]
        starts = [_start_seconds(stack.tfs_address, models) for _ in range(_STARTS)]
        resident = psutil.Process(stack.pids["gateway"]).memory_info().rss / 1e6
    if as_json:
        for case in cases:
            click.echo(json.dumps({**dataclasses.asdict(case), "ratio": case.ratio, "rounds": rounds}))
    else:
        _print_table(cases, starts, resident, photo, rounds)


if __name__ == "__main__":
    main()
