"""The protos are the API's reference (docs/api.md): each declaration has a comment."""

import pathlib

from google.protobuf import descriptor_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {"message_type": "field", "enum_type": "value", "service": "method"}


def test_every_message_field_value_and_method_has_a_comment() -> None:
    protoset = ROOT / "proto/gen/dermserve/v1/dermserve.protoset"
    files = descriptor_pb2.FileDescriptorSet.FromString(protoset.read_bytes())
    ours = [file for file in files.file if file.package == "dermserve.v1"]
    assert len(ours) == 2
    for file in ours:
        commented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        for kind, part in KINDS.items():
            number = file.DESCRIPTOR.fields_by_name[kind].number
            for n, declared in enumerate(getattr(file, kind)):
                inner = declared.DESCRIPTOR.fields_by_name[part].number
                paths = {(number, n): declared.name}
                paths |= {(number, n, inner, m): each.name for m, each in enumerate(getattr(declared, part))}
                assert [name for path, name in paths.items() if path not in commented] == []
