"""Render the protos of the public API as Markdown for the page `docs/api.md` (`make docs`)."""

import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from google.protobuf import descriptor_pb2

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from openapi_document import comments, read_protoset

PACKAGE = "dermserve.v1"
Field: TypeAlias = descriptor_pb2.FieldDescriptorProto


def reference() -> str:
    """Write a section for each service, message and enum of our package, in the order of the files."""
    files = read_protoset()
    said = comments(files)
    ours = [file for file in files.file if file.package == PACKAGE]
    return "\n".join(line for file in reversed(ours) for line in _file(file, said))


def _file(file: descriptor_pb2.FileDescriptorProto, said: dict[str, str]) -> Iterator[str]:
    for service in file.service:
        name = f"{PACKAGE}.{service.name}"
        rows = ((m.name, "stream of " * m.client_streaming + _linked(m.input_type),
                 "stream of " * m.server_streaming + _linked(m.output_type), said.get(f"{name}.{m.name}", ""))
                for m in service.method)  # fmt: skip
        yield from _section(service.name, said.get(name, ""), ("method", "request", "answer", ""), rows)
    for message in file.message_type:
        yield from _message(message, f"{PACKAGE}.{message.name}", said)
    for enum in file.enum_type:
        values = ((f"`{v.name}`", str(v.number), said.get(f"{PACKAGE}.{v.name}", "")) for v in enum.value)
        yield from _section(enum.name, said.get(f"{PACKAGE}.{enum.name}", ""), ("value", "number", ""), values)


def _message(message: descriptor_pb2.DescriptorProto, name: str, said: dict[str, str]) -> Iterator[str]:
    maps = {f".{name}.{inner.name}": inner for inner in message.nested_type if inner.options.map_entry}
    rows = ((f"`{field.name}`", _kind(field, maps), str(field.number), said.get(f"{name}.{field.name}", ""))
            for field in message.field)  # fmt: skip
    yield from _section(message.name, said.get(name, ""), ("field", "type", "number", ""), rows)
    for inner in message.nested_type:
        if not inner.options.map_entry:
            yield from _message(inner, f"{name}.{inner.name}", said)


def _section(title: str, words: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield from (f"### {title}", "", words, "")
    rows = list(rows)
    if rows:
        yield from (f"| {' | '.join(head)} |", "|---" * len(head) + "|")
        yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""


def _kind(field: Field, maps: dict[str, descriptor_pb2.DescriptorProto]) -> str:
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map of {_kind(key, maps)} to {_kind(value, maps)}"
    kind = _linked(field.type_name) or Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == Field.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    return f"{kind}, or another of its oneof" if field.HasField("oneof_index") else kind


def _linked(full_name: str) -> str:
    """Link a type of ours to its section; give another's full name."""
    name = full_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})" if full_name.startswith(f".{PACKAGE}.") else full_name.removeprefix(".")
