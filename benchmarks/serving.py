"""What the benchmarks share: starting servers, calling them, loading them, and measuring both sides."""

import contextlib
import http.client
import itertools
import pathlib
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click
import grpc
import numpy as np
from numpy.typing import NDArray

from dermserve.client._request import preparer
from dermserve.contract import Input, Output, Signature
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.loadtest.machine import use_of
from dermserve.local.child import Child
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

MODELS = ("resnet50", "mobilenet_v3_small")
SIDE = 224
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_TIMEOUT = 120.0
_GRACE = 10.0
_LEAST = 4
Call = Callable[[bytes], object]  # takes a photo, as bytes, to its answer

store_option = click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)


@contextlib.contextmanager
def server_process(module: str, *arguments: str, **env: str) -> Iterator[tuple[int, str]]:
    """Run `python -m module ARGUMENTS` until the block ends; gives its process id and the address that it prints."""
    ready = re.compile(r"Running .* at (\S+:\d+)")
    child = Child([sys.executable, "-m", module, *arguments], name=module, log=lambda line: None, ready=ready, env=env)
    try:
        yield child.pid, child.wait_ready(timeout=_TIMEOUT)[1]
    finally:
        child.stop(grace=_GRACE)


def predict_request(model: str, pixels: NDArray[np.uint8]) -> serving_pb2.PredictRequest:
    """Build a Predict of uint8 pixels [N, 224, 224, 3], for all outputs: TensorFlow warms each set of them apart."""
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_content=pixels.tobytes())
    tensor.tensor_shape.dim.extend(tensor_pb2.TensorShapeProto.Dim(size=size) for size in pixels.shape)
    spec = serving_pb2.ModelSpec(name=model, signature_name=Signature.SERVING_DEFAULT)
    return serving_pb2.PredictRequest(model_spec=spec, inputs={Input.IMAGES.value: tensor})


def probabilities(response: serving_pb2.PredictResponse, rows: int) -> NDArray[np.float32]:
    """Read float32 [rows, C] out of an answer."""
    return np.array(response.outputs[Output.PROBABILITIES.value].float_val, "f4").reshape(rows, -1)


def pixels_of(photo: bytes, views: int = 1) -> NDArray[np.uint8]:
    """Decode a photo and make its first standard views: uint8 [views, 224, 224, 3]."""
    return make_views(decode(photo, height=SIDE, width=SIDE), STANDARD_VIEWS[:views])


def direct_caller(address: str, model: str, views: int) -> Callable[[bytes], list[float]]:
    """Make a caller of Predict whose pixels are made at the first call."""
    predict = grpc.insecure_channel(address, options=CHANNEL).unary_unary(
        PREDICT, serving_pb2.PredictRequest.SerializeToString, serving_pb2.PredictResponse.FromString
    )
    made: dict[bytes, serving_pb2.PredictRequest] = {}

    def call(photo: bytes) -> list[float]:
        if photo not in made:
            made[photo] = predict_request(model, pixels_of(photo, views))
        means: list[float] = probabilities(predict(made[photo], timeout=_TIMEOUT), views).mean(axis=0).tolist()
        return means

    return call


def gateway_caller(address: str, model: str, tta: str) -> Callable[[bytes], classifier_pb2.ClassifyResponse]:
    """Make a caller of Classify, with a connection of its own."""
    stub = classifier_pb2_grpc.ClassifierStub(  # type: ignore[no-untyped-call]
        grpc.insecure_channel(address, options=CHANNEL)
    )
    prepare = preparer(model=model, version=None, label=None, tta=tta)

    def call(photo: bytes) -> classifier_pb2.ClassifyResponse:
        answer: classifier_pb2.ClassifyResponse = stub.Classify(prepare(photo), timeout=_TIMEOUT)
        return answer

    return call


def http_caller(address: str, path: str, kind: str) -> Callable[[bytes], bytes]:
    """Make a caller that posts bodies of a content type over its own connection; a RuntimeError without a 200."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT)

    def call(body: bytes) -> bytes:
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{address} answers {response.status}: {answer[:300]!r}")
        return answer

    weakref.finalize(call, connection.close)
    return call


def alternate(calls: Sequence[Callable[[], object]], rounds: int, *, warm_up: int = 5) -> NDArray[np.float64]:
    """Time calls in alternating rounds, so that a noisy machine slows all alike: milliseconds [rounds, calls]."""
    for call in [*calls] * warm_up:
        call()
    times = np.empty((rounds, len(calls)))
    for index in np.ndindex(times.shape):
        started = time.perf_counter()
        calls[index[1]]()
        times[index] = (time.perf_counter() - started) * 1000
    return times


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What a closed loop of callers came to."""

    answers: float  # a second
    p50: float  # milliseconds
    p99: float
    processor: Mapping[int, float]  # milliseconds of a core an answer, by process id


def closed_loop(
    calls: Sequence[Call], photos: Sequence[bytes], *, seconds: float, warm_up: float = 1.0, pids: Sequence[int] = ()
) -> Loop:
    """Let each caller call again at once for some seconds, or until a few are answered; raise what one raised."""
    stop, ended, took = threading.Event(), threading.Event(), list[float]()

    def call_on(number: int, call: Call) -> None:
        started = time.perf_counter()
        try:
            for photo in itertools.islice(itertools.cycle(photos), number % len(photos), None):
                if stop.is_set():
                    return
                call(photo)
                took.append((now := time.perf_counter()) - started)
                started = now
        finally:
            ended.set()

    with ThreadPoolExecutor(len(calls)) as pool:
        callers = [pool.submit(call_on, *each) for each in enumerate(calls)]
        ended.wait(warm_up)
        before, first = [use_of(pid)[0] for pid in pids], len(took)
        while not ended.wait(seconds) and len(took) < first + _LEAST:
            seconds = 0.05
        counted, spent = took[first:], [use_of(pid)[0] for pid in pids]
        stop.set()
    for caller in callers:
        caller.result()
    p50, p99 = np.percentile(counted, [50, 99]) * 1000
    each = {pid: (now - then) * 1000 / len(counted) for pid, now, then in zip(pids, spent, before, strict=True)}
    # Little's law, as callers do not pause: counting calls by their ends favours a few long ones that end together.
    return Loop(answers=len(calls) / float(np.mean(counted)), p50=float(p50), p99=float(p99), processor=each)
