"""What the gateway adds to TensorFlow Serving: direct Predict, decode, and the whole way, side by side in one run.

    make bench                              # starts the local stack, all four cases
    python benchmarks/gateway.py --json     # the same for machines
    python benchmarks/gateway.py --against 68ce87f      # and the CPU time of that revision's gateway, in the same run

For each model and TTA mode, rounds alternate between the three, so that a noisy machine disturbs all alike. `direct`
sends the same pixels the gateway would; the ratio is the gateway's median over direct's plus decode's. The CPU time is
the gateway process's own, decoding included and the model server's not, which a busy machine disturbs least. The
gateway serves metrics, as in production.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

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
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


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
    gateway_cpu: float
    """Of the gateway's process, a request."""
    against_cpu: float | None
    """Of the other revision's, where there is one to compare with."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A gateway, and who it is to the kernel."""

    client: Client
    process: psutil.Process

    def cpu(self) -> float:
        """Return the CPU time it has used, in milliseconds."""
        times = self.process.cpu_times()
        return (times.user + times.system) * 1000


def measure(
    channel: grpc.Channel, gateway: Asked, other: Asked | None, model: str, tta: str, photo: bytes, rounds: int
) -> Case:
    """Measure a row: direct Predict, decoding, the gateway and the other one, in alternating rounds."""
    predict = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=serving_pb2.PredictRequest.SerializeToString,
        response_deserializer=serving_pb2.PredictResponse.FromString,
    )
    request = _predict_request(model, photo, tta)
    asked = [gateway, *([other] if other else [])]
    calls: tuple[Callable[[], object], ...] = (
        lambda: predict(request),
        lambda: decode(photo, height=_SIDE, width=_SIDE),
        *(functools.partial(one.client.classify, photo, model=model, tta=tta) for one in asked),
    )
    for call in calls * _WARM_UP:
        call()
    before = [one.cpu() for one in asked]
    times = np.array([[_timed(call) for call in calls] for _ in range(rounds)])
    cpu = [(one.cpu() - then) / rounds for one, then in zip(asked, before, strict=True)]
    p50, p99 = np.percentile(times, [50, 99], axis=0)
    return Case(model, tta, p50[0], p99[0], p50[1], p50[2], p99[2], cpu[0], cpu[1] if other else None)


@contextlib.contextmanager
def _gateway(tfs_address: str, models: tuple[str, ...], environment: dict[str, str]) -> Iterator[Asked]:
    """Run one more gateway before a model server that is ready."""
    chosen = [f"--model={model}" for model in models]
    command = [sys.executable, "-m", "dermserve.gateway", "--listen", "127.0.0.1:0", "--tfs", tfs_address, *chosen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        address = next(event["address"] for event in events if event["event"] == "listening")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        wait_serving(address, timeout=30, children=())
        with Client(address) as client:
            yield Asked(client, psutil.Process(process.pid))
        process.terminate()


@contextlib.contextmanager
def _revision(name: str, tfs_address: str, models: tuple[str, ...]) -> Iterator[Asked | None]:
    """Run the gateway of another revision of this repository; none where git does not know it."""
    root = pathlib.Path(__file__).resolve().parent.parent
    archive = subprocess.run(["git", "-C", root, "archive", name], capture_output=True, check=False)
    if archive.returncode:
        click.echo(f"not compared with {name}: {archive.stderr.decode().strip()}", err=True)
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        path = os.pathsep.join(f"{folder}/{part}" for part in ("client", "models", "proto/gen", "serving"))
        with _gateway(tfs_address, models, {"PYTHONPATH": path}) as asked:
            yield asked


def _start_seconds(tfs_address: str, models: tuple[str, ...]) -> float:
    """Start one more gateway before a model server that is ready; return the seconds until it says SERVING."""
    started = time.perf_counter()
    with _gateway(tfs_address, models, {}):
        return time.perf_counter() - started


def _print_table(
    cases: list[Case], starts: list[float], resident: float, photo: bytes, rounds: int, against: str
) -> None:
    click.echo(f"photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds a row, milliseconds\n")
    click.echo("| model | TTA | direct p50 | direct p99 | decode p50 | gateway p50 | gateway p99 | ratio | CPU |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        times = (case.direct_p50, case.direct_p99, case.decode_p50, case.gateway_p50, case.gateway_p99)
        row = [
            case.model,
            case.tta.upper(),
            *(f"{value:.1f}" for value in times),
            f"{case.ratio:.2f}",
            f"{case.gateway_cpu:.2f}",
        ]
        click.echo(f"| {' | '.join(row)} |")
    for case in [case for case in cases if case.against_cpu]:
        both = f"{case.gateway_cpu:.2f} ms a request, {case.against_cpu:.2f} at {against}"
        times = case.gateway_cpu / (case.against_cpu or 1)
        click.echo(f"\nCPU of {case.model} {case.tta.upper()}: {both}: {times:.2f} times", nl=False)
    click.echo(f"\n\ngateway SERVING {statistics.median(starts):.2f} s after its start (median of {len(starts)})")
    click.echo(
        f"gateway process afterwards: {resident:.0f} MB resident; ratio is gateway p50 / (direct p50 + decode p50)"
    )


@click.command()
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--photo", "photo_file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--rounds", type=click.IntRange(10), default=100, show_default=True, help="Of each row.")
@click.option("--against", metavar="REVISION", help="Compare the gateway's CPU time with that of another revision's.")
@click.option("--model", "models", multiple=True, default=("resnet50", "mobilenet_v3_small"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def main(
    store: pathlib.Path,
    photo_file: pathlib.Path | None,
    rounds: int,
    against: str | None,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare the gateway with a direct Predict, single view and FULL."""
    photo = photo_file.read_bytes() if photo_file else draw_lesion()
    os.environ.setdefault("DERMSERVE_METRICS_LISTEN", "127.0.0.1:0")
    with contextlib.ExitStack() as running:
        stack = running.enter_context(Stack(store=store, models=models, port=0, tfs_port=0))
        del os.environ["DERMSERVE_METRICS_LISTEN"]  # the other revision may not know it
        channel = running.enter_context(grpc.insecure_channel(stack.tfs_address, options=UNLIMITED))
        process = psutil.Process(stack.pids["gateway"])
        gateway = Asked(running.enter_context(Client(stack.gateway_address)), process)
        other = running.enter_context(_revision(against, stack.tfs_address, models)) if against else None
        cases = [
            measure(channel, gateway, other, model, tta, photo, rounds) for model in models for tta in ("none", "full")
        ]
        starts = [_start_seconds(stack.tfs_address, models) for _ in range(_STARTS)]
        resident = process.memory_info().rss / 1e6
    if as_json:
        for case in cases:
            click.echo(json.dumps({**dataclasses.asdict(case), "ratio": case.ratio, "rounds": rounds}))
    else:
        _print_table(cases, starts, resident, photo, rounds, against or "")


if __name__ == "__main__":
    main()
