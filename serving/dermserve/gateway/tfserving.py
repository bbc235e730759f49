"""TensorFlow Serving, called by path through our subset of its protos."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc
import grpc.aio
import numpy as np
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from numpy.typing import NDArray

from dermserve.contract import Input, Output, Signature
from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import (
    BudgetSpentError,
    GatewayError,
    InvalidModelOutputError,
    ModelServerBusyError,
    ModelServerFailedError,
    ModelServerUnreachableError,
)
from dermserve.gateway.target import Target
from dermserve.gateway.tensors import float_array, string_scalar, uint8_tensor
from dermserve.gateway.tracing import Tracing
from dermserve.tfserving.v1 import serving_pb2

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_UNKNOWN_LABEL = "Unrecognized servable version label"
_FULL_QUEUE = "The batch scheduling queue"

# Connections come back soon after a restart. The pool is ours alone: no other channel's back-off is inherited.
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    # A name with many addresses: a connection to each, in turn; pick_first, the default, would load one pod alone.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
)

_Request = TypeVar("_Request", bound=Message)
_Answer = TypeVar("_Answer", bound=Message)


class ServableNotFoundError(LookupError):
    """TensorFlow Serving has no such model, version or label. Whoever asked knows what the caller should hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the way to TensorFlow Serving is encrypted."""

    ca: pathlib.Path
    """PEM file of the authorities that its certificate must come from."""
    certificate: pathlib.Path | None = None
    """PEM file of our own, where it asks for one."""
    key: pathlib.Path | None = None
    """PEM file of its private key."""
    name: str | None = None
    """To expect in its certificate, when not the host of the address."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a version says of a batch of views."""

    views: int
    """Views it was asked about: the first so many of those the caller wanted."""
    version: int
    """Version that answered."""
    probabilities: NDArray[np.float32]
    """As sent: float32, unchecked; [V, C] when all is well."""
    ood_scores: NDArray[np.float32]
    """As sent: float32, unchecked; [V] when all is well."""


class Predictor(Protocol):
    """The port through which the gateway asks for probabilities."""

    async def predict(self, target: Target, *, views: NDArray[np.uint8], budget: Budget) -> Scores:
        """Ask for views, uint8 [V, H, W, 3], in one call that ends with the budget.

        A Predictor may leave the last views out, but never the first, when the budget has no time for them.

        Raises:
            ServableNotFoundError: the model server has no such model, version or label.
            GatewayError: it can't be reached, is full, failed, is late, or answered nonsense.
        """
        ...


def open_channel(address: str, *, tls: Tls | None = None) -> grpc.aio.Channel:
    """Open the channel to TensorFlow Serving at HOST:PORT; it connects and reconnects by itself.

    Raises:
        OSError: a file of the TLS can't be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    own = (tls.key.read_bytes(), tls.certificate.read_bytes()) if tls.key and tls.certificate else (None, None)
    name = (("grpc.ssl_target_name_override", tls.name),) if tls.name else ()
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(tls.ca.read_bytes(), *own), options=(*_CHANNEL_OPTIONS, *name)
    )


class TfServing:
    """The Predictor over gRPC, and what the catalog asks besides."""

    def __init__(self, channel: grpc.aio.Channel, *, address: str, tracing: Tracing) -> None:
        self._address = address
        self._tracing = tracing
        self._predict = channel.unary_unary(
            _PREDICT,
            request_serializer=serving_pb2.PredictRequest.SerializeToString,
            response_deserializer=serving_pb2.PredictResponse.FromString,
        )
        self._metadata = channel.unary_unary(
            _METADATA,
            request_serializer=serving_pb2.GetModelMetadataRequest.SerializeToString,
            response_deserializer=serving_pb2.GetModelMetadataResponse.FromString,
        )
        self._status = channel.unary_unary(
            _STATUS,
            request_serializer=serving_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=serving_pb2.GetModelStatusResponse.FromString,
        )

    async def predict(self, target: Target, *, views: NDArray[np.uint8], budget: Budget) -> Scores:
        """See Predictor."""
        # No output_filter: TensorFlow optimises, and keeps in memory, a graph for each set of outputs that is asked
        # for, and the warm-up records ask for all.
        request = serving_pb2.PredictRequest(
            model_spec=_spec(target, Signature.SERVING_DEFAULT), inputs={Input.IMAGES.value: uint8_tensor(views)}
        )
        with self._tracing.span("Predict", kind="CLIENT", **{"rpc.system": "grpc", "server.address": self._address}):
            response = await _answer(self._predict, request, budget=budget, metadata=self._tracing.outgoing())
        if response.model_spec.version.value < 1:
            raise InvalidModelOutputError("it names no version")
        return Scores(
            views=len(views),
            version=response.model_spec.version.value,
            probabilities=float_array(response.outputs[Output.PROBABILITIES.value], name=Output.PROBABILITIES.value),
            ood_scores=float_array(response.outputs[Output.OOD_SCORE.value], name=Output.OOD_SCORE.value),
        )

    async def describe(self, model: str, *, version: int, budget: Budget) -> bytes:
        """Read the card of a version, JSON as it lies in the SavedModel.

        Raises:
            ServableNotFoundError: there is no such version.
            GatewayError: as for `predict`.
        """
        request = serving_pb2.PredictRequest(model_spec=_spec(Target(model, version), Signature.DESCRIBE))
        response = await _answer(self._predict, request, budget=budget)
        return string_scalar(response.outputs[Output.CARD.value], name=Output.CARD.value)

    async def versions(self, model: str, *, budget: Budget) -> Sequence[serving_pb2.ModelVersionStatus]:
        """List the versions of a model, newest first, with their states.

        Raises:
            ServableNotFoundError: there is no such model.
            GatewayError: as for `predict`.
        """
        request = serving_pb2.GetModelStatusRequest(model_spec=_spec(Target(model), None))
        response = await _answer(self._status, request, budget=budget)
        return sorted(response.model_version_status, key=lambda status: status.version, reverse=True)

    async def labelled(self, model: str, *, label: str, budget: Budget) -> int:
        """Return the version a label points at.

        Raises:
            ServableNotFoundError: no such label, or its version can't answer.
            GatewayError: as for `predict`.
        """
        request = serving_pb2.GetModelMetadataRequest(
            model_spec=_spec(Target(model, label=label), None), metadata_field=["signature_def"]
        )
        response = await _answer(self._metadata, request, budget=budget)
        return response.model_spec.version.value


def _spec(target: Target, signature: Signature | None) -> serving_pb2.ModelSpec:
    spec = serving_pb2.ModelSpec(name=target.model, signature_name=signature.value if signature else "")
    if target.version is not None:
        spec.version.CopyFrom(wrappers_pb2.Int64Value(value=target.version))
    elif target.label is not None:
        spec.version_label = target.label
    return spec


async def _answer(
    method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]",
    request: _Request,
    *,
    budget: Budget,
    metadata: tuple[tuple[str, str], ...] = (),
) -> _Answer:
    try:
        return await method(request, timeout=budget.require("before asking the model server"), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise _translated(error) from error


def _translated(error: grpc.aio.AioRpcError) -> GatewayError | ServableNotFoundError:
    """Say what an RPC's failure means for our caller; the original stays the cause, for the log."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or details.startswith(_FULL_QUEUE):
        return ModelServerBusyError()
    if code is grpc.StatusCode.NOT_FOUND or details.startswith(_UNKNOWN_LABEL):
        return ServableNotFoundError(details)
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return ModelServerUnreachableError()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BudgetSpentError("waiting for the model server")
    return ModelServerFailedError()
