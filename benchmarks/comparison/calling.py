"""One caller: photo bytes in, probabilities in the model's own order out, over whatever a contender speaks."""

import base64
import functools
import http.client
import json
import uuid
from collections.abc import Callable

import grpc
import numpy as np

from benchmarks.comparison.field import DIRECT, OURS, Contender
from benchmarks.comparison.running import ContenderError
from dermserve.contract import Input, Output, Signature
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.models.catalogue import SPECS
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

Call = Callable[[bytes], list[float]]
_TIMEOUT = 120.0
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
VIEWS = {"1": 1, "10": 10, "adaptive": 10}
"""How many views each kind of call asks for at most."""
_MODES = {
    "1": classifier_pb2.TTA_MODE_NONE,
    "10": classifier_pb2.TTA_MODE_FULL,
    "adaptive": classifier_pb2.TTA_MODE_ADAPTIVE,
}


def caller(contender: Contender, address: str, model: str, kind: str) -> Call:
    """Make a caller with a connection of its own.

    Args:
        contender: whose server it is.
        address: HOST:PORT.
        model: its name.
        kind: a key of VIEWS; "adaptive" is dermserve's alone.
    """
    if contender.name == DIRECT:
        return _direct(address, model, VIEWS[kind])
    if contender.name == OURS:
        return _ours(address, model, kind)
    return _http(contender, address, VIEWS[kind])


def _ours(address: str, model: str, kind: str) -> Call:
    stub = classifier_pb2_grpc.ClassifierStub(  # type: ignore[no-untyped-call]
        grpc.insecure_channel(address, options=_OPTIONS)
    )
    codes = [each.code for each in SPECS[model].classes]

    def call(photo: bytes) -> list[float]:
        request = classifier_pb2.ClassifyRequest(
            model=classifier_pb2.ModelSelector(name=model), image=photo, tta=_MODES[kind]
        )
        answer = stub.Classify(request, timeout=_TIMEOUT)
        found = {each.code: each.probability for each in answer.classes}
        return [found[code] for code in codes]

    return call


def _direct(address: str, model: str, views: int) -> Call:
    predict = grpc.insecure_channel(address, options=_OPTIONS).unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=serving_pb2.PredictRequest.SerializeToString,
        response_deserializer=serving_pb2.PredictResponse.FromString,
    )

    def call(photo: bytes) -> list[float]:
        tensor = predict(_predict_request(photo, model, views), timeout=_TIMEOUT).outputs[Output.PROBABILITIES.value]
        values = np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else tensor.float_val
        means: list[float] = np.reshape(values, (views, -1)).mean(axis=0, dtype=np.float64).tolist()
        return means

    return call


@functools.lru_cache(maxsize=64)
def _predict_request(photo: bytes, model: str, views: int) -> serving_pb2.PredictRequest:
    pixels = make_views(decode(photo, height=224, width=224).pixels, STANDARD_VIEWS[:views])
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_content=pixels.tobytes())
    tensor.tensor_shape.dim.extend(tensor_pb2.TensorShapeProto.Dim(size=size) for size in pixels.shape)
    spec = serving_pb2.ModelSpec(name=model, signature_name=Signature.SERVING_DEFAULT)
    request = serving_pb2.PredictRequest(model_spec=spec, inputs={Input.IMAGES.value: tensor})
    request.output_filter.append(Output.PROBABILITIES.value)
    return request


def _http(contender: Contender, address: str, views: int) -> Call:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT)
    prepare = {"raw": _raw, "multipart": _multipart, "json": _json}[contender.upload]
    made: dict[bytes, tuple[str, bytes, dict[str, str]]] = {}

    def call(photo: bytes) -> list[float]:
        if photo not in made:
            made[photo] = prepare(photo, views)
        path, body, headers = made[photo]
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ContenderError(f"{contender.title} answered {response.status}: {answer[:300]!r}")
        return [float(value) for value in json.loads(answer)["probabilities"]]

    return call


def _raw(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    return f"/classify?views={views}", photo, {"Content-Type": "image/jpeg"}


def _json(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    body = json.dumps({"photo": base64.b64encode(photo).decode(), "views": views})
    return "/classify", body.encode(), {"Content-Type": "application/json"}


def _multipart(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    mark = uuid.uuid4().hex
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="views"\r\n\r\n{views}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="photo"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + photo + f"\r\n--{mark}--\r\n".encode()
    return "/classify", body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
