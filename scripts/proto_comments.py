"""Read the committed descriptor set of the public API, and the comments of its declarations by full name."""

import pathlib
from collections.abc import Iterator

from google.protobuf import descriptor_pb2

PROTOSET = pathlib.Path(__file__).resolve().parent.parent / "proto/gen/dermserve/v1/dermserve.protoset"


def read_protoset() -> descriptor_pb2.FileDescriptorSet:
    """Read what `scripts/stubs.py` wrote: our protos and all that they import, with comments."""
    return descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes())


def comments(files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    """Map the full name of each declaration to the comment before it, as one line."""
    found = {}
    for file in files.file:
        for location in file.source_code_info.location:
            words = " ".join(location.leading_comments.split())
            if words and (name := ".".join(_names(file, list(location.path)))):
                found[name] = words
    return found


def _names(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> Iterator[str]:
    """Follow a location's path of field numbers and indices; yield nothing for what is no declaration."""
    names, here = [file.package], file
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = here.DESCRIPTOR.fields_by_number[number]
        if field.message_type is None or not field.is_repeated:
            return
        here = getattr(here, field.name)[index]
        if not hasattr(here, "name"):
            return
        # A value of an enum is a sibling of the enum in protobuf's scoping.
        if isinstance(here, descriptor_pb2.EnumValueDescriptorProto):
            names.pop()
        names.append(here.name)
    if path and len(path) % 2 == 0:
        yield from names
