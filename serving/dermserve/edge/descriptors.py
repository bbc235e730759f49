"""The proto's descriptors, as Envoy's transcoder wants them: from the generated stubs, so that they can't be stale."""

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2

from dermserve.v1 import classifier_pb2

SERVICE = "dermserve.v1.Classifier"
"""The service whose google.api.http routes are transcoded."""


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Collect the API's files, what they import, and the types in an error's details, imports first."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for file in (classifier_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        _collect(file, found)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


def _collect(file: FileDescriptor, found: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    if file.name in found:
        return
    for dependency in file.dependencies:
        _collect(dependency, found)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    found[file.name] = proto
