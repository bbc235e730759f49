"""Client of TensorFlow Serving: calls by path through our subset of its protos, tensors without TensorFlow."""

import functools
import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from dermserve.contract import Input, Output, Signature
from dermserve.gateway import errors
from dermserve.gateway.certificates import TlsFiles
from dermserve.imaging import STANDARD_VIEWS
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2

_UNKNOWN_LABEL = "Unrecognized servable version label"
_FULL_QUEUE = "The batch scheduling queue"

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect soon after a restart, with an own subchannel pool, so that no other channel's back-off applies.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    # The environment's proxy is not for model servers.
    ("grpc.enable_http_proxy", 0),
    # Pings find a frozen server. TensorFlow Serving permits two pings without data in 300 s; the catalog's polls every
    # few seconds count as data.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_MAX_ELEMENTS = 1_000_000  # no answer of a classifier is larger; without a limit a shape could claim any memory

_Answer = TypeVar("_Answer", bound=Message)
_Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"


class ServableNotFoundError(LookupError):
    """TensorFlow Serving has no such model, version or label. The calling code chooses the caller's error."""


class Target(NamedTuple):
    """A model, and the version or label if not the latest version."""

    model: str
    version: int | None = None
    label: str | None = None


class Scores(NamedTuple):
    """The scores of views, the first of those requested, from one version."""

    version: int  # version that answered
    # [V][C], as received, unchecked. Lists, because numpy takes longer for so few numbers.
    probabilities: Sequence[Sequence[float]]
    ood_scores: Sequence[float]  # [V], as received, unchecked. With `tta`, that of the identity for each.

    @property
    def views(self) -> int:
        """How many views were predicted."""
        return len(self.probabilities)


class TfServing:
    """The calls to one TensorFlow Serving; `seconds` is a call's timeout. Connects and reconnects by itself."""

    def __init__(self, target: str, *, host: str, tls: TlsFiles | None, interceptors: Sequence[Any]) -> None:
        """Open the channel.

        Args:
            target: its address in gRPC's form: `ipv4:ADDRESS:PORT`, `ipv6:[ADDRESS]:PORT` or `unix:PATH`.
            host: the name that its certificate is verified against.
            tls: its files as they are now; None for plain text.
            interceptors: gRPC's own, for traces.
        """
        self.pems = tls.loaded if tls else None  # those of its TLS; a channel takes them once
        if tls is None:
            channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS, interceptors=interceptors)
        else:
            options = (*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host))
            channel = grpc.aio.secure_channel(target, tls.client, options=options, interceptors=interceptors)
        self.close = channel.close
        self.connected = channel.channel_ready
        self._predict: _Method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        self._metadata: _Method = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
        self._status: _Method = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")

    async def predict(self, target: Target, images: NDArray[np.uint8], *, tta: bool, seconds: float) -> Scores:
        """Predict images, uint8 [N, H, W, 3]: each one view, or, with `tta`, one image of which views are made.

        Raises:
            ServableNotFoundError: there is no such model, version or label.
            GatewayError: it can't be reached, is full, failed, is late, or gave an invalid answer.
        """
        # No output_filter: TensorFlow optimises a graph, and keeps it in memory, for each set of outputs that is
        # requested, and the warm-up records request all.
        request = encode_predict(target, Signature.TTA if tta else Signature.SERVING_DEFAULT, images)
        response = await _call(self._predict, request, serving_pb2.PredictResponse, seconds)
        if (version := response.model_spec.version.value) < 1:
            raise errors.InvalidModelOutputError("it names no version")
        ood_scores, views = read_output(response, Output.OOD_SCORE, rank=1), len(images)
        rows = read_output(response, Output.VIEW_PROBABILITIES if tta else Output.PROBABILITIES, rank=3 if tta else 2)
        if tta:
            views = len(STANDARD_VIEWS)
            rows, ood_scores = list(itertools.chain(*rows)), ood_scores * views
        if not len(rows) == len(ood_scores) == views:
            text = f"it has {len(rows)} probabilities and {len(ood_scores)} ood_score for {views} views"
            raise errors.InvalidModelOutputError(text)
        return Scores(version, rows, ood_scores)

    async def describe(self, model: str, *, version: int, seconds: float) -> bytes:
        """Read the card of a version, the JSON in its SavedModel. Raises what `predict` raises."""
        shape = tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=1)])
        query = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_STRING, tensor_shape=shape, string_val=[b""])
        spec = _spec(Target(model, version), Signature.DESCRIBE)
        request = serving_pb2.PredictRequest(model_spec=spec, inputs={Input.QUERY: query})
        response = await _call(self._predict, request.SerializeToString(), serving_pb2.PredictResponse, seconds)
        return string_scalar(response.outputs[Output.CARD], name=Output.CARD)

    async def versions(self, model: str, *, seconds: float) -> Sequence[serving_pb2.ModelVersionStatus]:
        """List the versions of a model with their states. Raises what `predict` raises."""
        request = serving_pb2.GetModelStatusRequest(model_spec=_spec(Target(model)))
        answer = await _call(self._status, request.SerializeToString(), serving_pb2.GetModelStatusResponse, seconds)
        return answer.model_version_status

    async def labelled(self, model: str, *, label: str, seconds: float) -> int:
        """Return the version that a label points to. Raises what `predict` raises."""
        spec = _spec(Target(model, label=label))
        request = serving_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        answer = await _call(self._metadata, request.SerializeToString(), serving_pb2.GetModelMetadataResponse, seconds)
        return answer.model_spec.version.value


def _spec(target: Target, signature: Signature | None = None) -> serving_pb2.ModelSpec:
    spec = serving_pb2.ModelSpec(name=target.model, signature_name=signature)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec


def encode_predict(target: Target, signature: Signature, images: NDArray[np.uint8]) -> bytes:
    """Encode a PredictRequest; the pixels, 150 kB a view, are copied once. protobuf would copy them four times."""
    return b"".join((_predict_head(target, signature, images.shape), images.data))


@functools.lru_cache(maxsize=64)  # labels come from callers
def _predict_head(target: Target, signature: Signature, shape: tuple[int, ...]) -> bytes:
    """Encode what comes before the pixels, the last field of the last field."""
    content = bytes(math.prod(shape))
    dims = [tensor_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    tensor = tensor_pb2.TensorProto(
        dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_shape=tensor_pb2.TensorShapeProto(dim=dims), tensor_content=content
    )
    request = serving_pb2.PredictRequest(model_spec=_spec(target, signature), inputs={Input.IMAGES: tensor})
    return request.SerializeToString().removesuffix(content)


async def _call(method: _Method, request: bytes, answer: type[_Answer], seconds: float) -> _Answer:
    """Make a call and parse the answer. If gRPC parsed it, invalid bytes would give a stack trace and None."""
    try:
        return answer.FromString(await method(request, timeout=seconds))
    except DecodeError as error:
        raise errors.InvalidModelOutputError("it is not a message of TensorFlow Serving") from error
    except grpc.aio.UsageError as error:  # the channel was closed a moment ago, as its address is gone
        raise errors.ModelServerUnreachableError from error
    except grpc.aio.AioRpcError as error:  # the cause of the caller's error, for the log
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED or details.startswith(_FULL_QUEUE):
            raise errors.ModelServerBusyError from error
        if code is grpc.StatusCode.NOT_FOUND or details.startswith(_UNKNOWN_LABEL):
            raise ServableNotFoundError(details) from error
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
            raise errors.ModelServerUnreachableError from error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise errors.BudgetSpentError("waiting for the model server") from error
        raise errors.ModelServerFailedError from error


def read_output(response: serving_pb2.PredictResponse, output: Output, *, rank: int) -> Any:
    """Read an output, a float32 tensor in `tensor_content` or `float_val`, as nested lists.

    The last value of `float_val` fills up the shape.

    Raises:
        InvalidModelOutputError: another dtype or rank, an empty tensor, or content that does not fit the shape.
    """
    tensor = response.outputs[output]
    if tensor.dtype != tensor_pb2.DATA_TYPE_FLOAT:
        raise errors.InvalidModelOutputError(f"{output} is not float32")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) != rank or min(shape) < 1 or (size := math.prod(shape)) > _MAX_ELEMENTS:
        raise errors.InvalidModelOutputError(f"{output} has the shape {shape}")
    if (content := tensor.tensor_content) and len(content) != size * 4:
        raise errors.InvalidModelOutputError(f"{output} has {len(content)} bytes for {size} values")
    values: list[Any] = [*struct.unpack(f"<{size}f", content)] if content else [*tensor.float_val]
    if len(values) > size:
        raise errors.InvalidModelOutputError(f"{output} has {len(values)} values for {size}")
    values += (values[-1:] or [0.0]) * (size - len(values))
    for length in reversed(shape[1:]):
        values = [values[at : at + length] for at in range(0, len(values), length)]
    return values


def string_scalar(tensor: tensor_pb2.TensorProto, *, name: str) -> bytes:
    """Decode a tensor of one string.

    Raises:
        InvalidModelOutputError: it is anything else.
    """
    if tensor.dtype != tensor_pb2.DATA_TYPE_STRING or len(tensor.string_val) != 1:
        raise errors.InvalidModelOutputError(f"{name} is not one string")
    return tensor.string_val[0]
