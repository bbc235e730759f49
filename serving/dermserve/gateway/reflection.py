"""gRPC server reflection, v1 and v1alpha, from the generated stubs.

grpcio-reflection serves v1alpha alone, its pool does not find methods (KeyError, protobuf 7), and Python's descriptors
leave JSON names out, so that clients print `request_id` where the API says `requestId`.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import Descriptor, FileDescriptor
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
    servicer = _Servicer((*services, V1, V1ALPHA), pool=_Pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(  # the messages of v1 are those of v1alpha
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),))


class _Pool:
    """The descriptors of this process, and those of reflection v1."""

    def __init__(self) -> None:
        self._default: Any = descriptor_pool.Default()
        self._v1: Any = descriptor_pool.DescriptorPool()
        self._v1.Add(_v1_file())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._default, name)

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        """Find a file; KeyError when there is none."""
        file: FileDescriptor = self._either("FindFileByName", name)
        return file

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        """Find the file that declares a symbol, of a method, too; KeyError when there is none."""
        file: FileDescriptor
        try:
            file = self._either("FindFileContainingSymbol", symbol)
        except KeyError:
            file = self._either("FindMethodByName", symbol).containing_service.file
        return file

    def _either(self, method: str, name: str) -> Any:
        try:
            return getattr(self._default, method)(name)
        except KeyError:
            return getattr(self._v1, method)(name)


class _Servicer(ReflectionServicer):  # type: ignore[misc]
    """Adds the JSON names that a FileDescriptor's copy leaves out."""

    async def ServerReflectionInfo(  # noqa: N802 - gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer each request of a stream."""
        async for response in super().ServerReflectionInfo(request_iterator, context):
            files = response.file_descriptor_response.file_descriptor_proto
            for position, serialized in enumerate(files):
                files[position] = self._with_json_names(serialized)
            yield response

    def _with_json_names(self, serialized: bytes) -> bytes:
        proto = descriptor_pb2.FileDescriptorProto.FromString(serialized)
        file = self._pool.FindFileByName(proto.name)
        for message in proto.message_type:
            _name_fields(message, file.message_types_by_name[message.name])
        return proto.SerializeToString()


def _name_fields(message: descriptor_pb2.DescriptorProto, descriptor: Descriptor) -> None:
    for field in message.field:
        field.json_name = descriptor.fields_by_name[field.name].json_name
    for nested in message.nested_type:
        _name_fields(nested, descriptor.nested_types_by_name[nested.name])


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    """Make the descriptors of v1 from v1alpha's, which differ in their names alone."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    alpha.options.ClearField("deprecated")
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
