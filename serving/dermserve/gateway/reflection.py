"""gRPC server reflection, v1 and v1alpha.

grpcio-reflection serves only v1alpha and does not find methods. The descriptors of Python's stubs lack JSON names, so
clients would print `request_id` instead of `requestId`: the API's descriptors come from its protoset.
"""

import contextlib
import importlib.resources
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Let callers ask a server for its services and their descriptors.

    Args:
        services: full names of the services to list; the reflection services are added.
        server: not started yet.
    """
    servicer = _Servicer((*services, V1, V1ALPHA), pool=_pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(  # the messages of v1 are those of v1alpha
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),))


class _Servicer(ReflectionServicer):  # type: ignore[misc]
    """Finds methods, too, by their service."""

    def _file_containing_symbol(self, request: Any, symbol: str) -> Any:
        with contextlib.suppress(KeyError):
            symbol = self._pool.FindMethodByName(symbol).containing_service.full_name
        return super()._file_containing_symbol(request, symbol)


def _pool() -> DescriptorPool:
    """Collect the descriptors of the API, of health and of reflection, whose v1 differs from v1alpha in names alone."""
    protoset = (importlib.resources.files("dermserve.v1") / "dermserve.protoset").read_bytes()
    files = [*descriptor_pb2.FileDescriptorSet.FromString(protoset).file]
    for module in (health_pb2, reflection_pb2):
        files.append(descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))
    v1 = text_format.MessageToString(files[-1]).replace("v1alpha", "v1")
    files.append(text_format.Parse(v1, descriptor_pb2.FileDescriptorProto()))
    files[-1].options.ClearField("deprecated")
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool
