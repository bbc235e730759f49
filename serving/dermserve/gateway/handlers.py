"""The Classifier's methods as gRPC handlers.

The generated `add_ClassifierServicer_to_server` is not used: bytes that are not the method's message would end as
UNKNOWN with the parser's words and a stack trace on stderr. Here they reach the method as None.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from dermserve.gateway.health import SERVICE
from dermserve.gateway.service import ClassifierService
from dermserve.v1 import classifier_pb2

_T = TypeVar("_T", bound=Message)


def add_classifier(service: ClassifierService, server: grpc.aio.Server) -> None:
    """Serve the Classifier."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Classify": grpc.unary_unary_rpc_method_handler(
            service.Classify, parser(classifier_pb2.ClassifyRequest), _render
        ),
        "ClassifyStream": grpc.stream_stream_rpc_method_handler(
            service.ClassifyStream, parser(classifier_pb2.ClassifyStreamRequest), _render
        ),
        "ListModels": grpc.unary_unary_rpc_method_handler(
            service.ListModels, parser(classifier_pb2.ListModelsRequest), _render
        ),
        "GetModel": grpc.unary_unary_rpc_method_handler(
            service.GetModel, parser(classifier_pb2.GetModelRequest), _render
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def parser(message: type[_T]) -> Callable[[bytes], _T | None]:
    """Make what parses a message; None when the bytes are not one."""

    def parse(data: bytes) -> _T | None:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return parse


def _render(message: Message) -> bytes:
    return message.SerializeToString()
