"""The API page has every declaration of the protos, each with its comment."""

import pathlib
import runpy

from google.protobuf import descriptor_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_reference_has_every_message_field_value_and_method_with_its_comment() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "proto_reference.py"))["reference"]()
    protoset = ROOT / "proto/gen/dermserve/v1/dermserve.protoset"
    files = descriptor_pb2.FileDescriptorSet.FromString(protoset.read_bytes())
    for file in (one for one in files.file if one.package == "dermserve.v1"):
        for declared in (*file.message_type, *file.enum_type, *file.service):
            _, _, section = page.partition(f"### {declared.name}\n")
            section = section.partition("\n### ")[0]
            kind = {"DescriptorProto": "field", "EnumDescriptorProto": "value", "ServiceDescriptorProto": "method"}
            for part in getattr(declared, kind[type(declared).__name__]):
                row = next(
                    line for line in section.splitlines() if line.startswith((f"| `{part.name}`", f"| {part.name} "))
                )
                assert row.split("|")[-2].strip(), f"{declared.name}.{part.name} has no comment"
