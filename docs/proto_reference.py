"""Render the protos of the public API as Markdown for the page `docs/api.md` (`make docs`)."""

import pathlib
import sys
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from openapi_document import read_protoset

PACKAGE = "dermserve.v1"


def reference() -> str:
    """Write a section for each service, message and enum of our package, in the order of the files."""
    pool, said = read_protoset()
    files = (pool.FindFileByName(f"dermserve/v1/{name}.proto") for name in ("classifier", "card"))
    return "\n".join(line for file in files for line in _file(file, said))


def _file(file: FileDescriptor, said: dict[str, str]) -> Iterator[str]:
    for service in file.services_by_name.values():
        rows = ((m.name, "stream of " * m.client_streaming + _linked(m.input_type),
                 "stream of " * m.server_streaming + _linked(m.output_type), said.get(m.full_name, ""))
                for m in service.methods)  # fmt: skip
        yield from _section(service, said, ("method", "request", "answer", ""), rows)
    for message in file.message_types_by_name.values():
        yield from _message(message, said)
    for enum in file.enum_types_by_name.values():
        values = ((f"`{v.name}`", str(v.number), said.get(f"{PACKAGE}.{v.name}", "")) for v in enum.values)
        yield from _section(enum, said, ("value", "number", ""), values)


def _message(message: Descriptor, said: dict[str, str]) -> Iterator[str]:
    rows = ((f"`{field.name}`", _kind(field), str(field.number), said.get(field.full_name, ""))
            for field in message.fields)  # fmt: skip
    yield from _section(message, said, ("field", "type", "number", ""), rows)
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from _message(inner, said)


def _section(
    of: Descriptor | EnumDescriptor | ServiceDescriptor, said: dict[str, str], head: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
) -> Iterator[str]:  # fmt: skip
    yield from (f"### {of.name}", "", said.get(of.full_name, ""), "")
    rows = list(rows)
    if rows:
        yield from (f"| {' | '.join(head)} |", "|---" * len(head) + "|")
        yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""


def _kind(field: FieldDescriptor) -> str:
    of = field.message_type or field.enum_type
    if field.message_type and field.message_type.GetOptions().map_entry:
        return "map of {} to {}".format(*map(_kind, field.message_type.fields))
    kind = _linked(of) if of else FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.is_repeated:
        return f"repeated {kind}"
    if oneof := field.containing_oneof:
        return f"optional {kind}" if oneof.name == f"_{field.name}" else f"{kind}, or another of its oneof"
    return kind


def _linked(of: Descriptor | EnumDescriptor) -> str:
    """Link a type of ours to its section; give another's full name."""
    return f"[{of.name}](#{of.name.lower()})" if of.full_name.startswith(f"{PACKAGE}.") else of.full_name
