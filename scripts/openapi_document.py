"""Make the OpenAPI 3.1 document of the JSON routes from the protos and openapi.yaml."""

import json
import pathlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTOSET = ROOT / "proto/gen/dermserve/v1/dermserve.protoset"
FILE = ROOT / "serving/dermserve/edge/site/openapi.json"
_STATIC = yaml.safe_load(pathlib.Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))
_SERVICE = "dermserve.v1.Classifier"
Json: TypeAlias = dict[str, Any]

_PATH_FIELD = re.compile(r"\{([a-z_.]+)\}")
_SCALARS: dict[int, Json] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
}


def render() -> str:
    """Write the OpenAPI 3.1 document of the committed descriptor set, as JSON."""
    pool, comments = read_protoset()
    schemas, paths = _Schemas(comments), dict[str, Json]()
    for method in pool.FindServiceByName(_SERVICE).methods:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for route in (rule, *rule.additional_bindings):
            if (verb := route.WhichOneof("pattern")) and method.name != "ClassifyPhoto":  # a route within the edge
                shown = _PATH_FIELD.sub(lambda match: "{" + _plain(match[1]) + "}", path := getattr(route, verb))
                paths.setdefault(shown, {})[verb] = _operation(method, schemas, path, has_body=bool(route.body))
    document = _STATIC["document"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    document["info"] |= {"version": version, "description": schemas.comments[_SERVICE]}
    document["paths"] = paths | document["paths"]
    parts = document["components"]
    parts["schemas"] = dict(sorted((schemas.found | parts["schemas"]).items()))
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
    parts["responses"] = {code: {"description": words, "content": shape} for code, words in _STATIC["errors"].items()}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


class _Schemas:
    """The schemas of messages and enums, made when something refers to them."""

    def __init__(self, comments: dict[str, str]) -> None:
        self.found: dict[str, Json] = {}
        self.comments = comments

    def of_message(self, message: Descriptor) -> Json:
        if message.name not in self.found:
            self.found[message.name] = {}  # for recursive messages
            self.found[message.name] = self.of_fields(message, list(message.fields))
        return {"$ref": f"#/components/schemas/{message.name}"}

    def of_fields(self, described: Descriptor | FieldDescriptor, fields: list[FieldDescriptor]) -> Json:
        properties = {field.json_name: self.of_field(field) for field in fields}
        return {"type": "object", "description": self.comments[described.full_name], "properties": properties}

    def of_field(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            schema = {"type": "object", "additionalProperties": self._single(value)}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field)}
        else:
            schema = self._single(field)
        words = self.comments[field.full_name]
        return {**schema, "description": words} if words else schema

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self.of_message(field.message_type)
        return dict(_SCALARS[field.type]) if field.enum_type is None else self._of_enum(field.enum_type)

    def _of_enum(self, enum: EnumDescriptor) -> Json:
        beside = enum.full_name.rpartition(".")[0]  # where protobuf puts an enum's values
        values = "\n".join(f"- `{value.name}`: {self.comments[f'{beside}.{value.name}']}" for value in enum.values)
        words = f"{self.comments[enum.full_name]}\n\n{values}"
        self.found[enum.name] = {"type": "string", "description": words, "enum": [one.name for one in enum.values]}
        return {"$ref": f"#/components/schemas/{enum.name}"}


def _operation(method: MethodDescriptor, schemas: _Schemas, path: str, *, has_body: bool) -> Json:
    assert method.containing_service is not None
    words, answer = schemas.comments[method.full_name], schemas.of_message(method.output_type)
    said = {"200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}}}
    parameters = [{"name": _plain(name), **_STATIC["path_parameter"]} for name in _PATH_FIELD.findall(path)]
    operation = {
        "operationId": method.name,
        "tags": [method.containing_service.name],
        "summary": words.split(".")[0],
        "description": words,
        "parameters": parameters + _STATIC["photo_parameters"] * has_body,
        "responses": said | {code: {"$ref": f"#/components/responses/{code}"} for code in _STATIC["errors"]},
    }
    if has_body:
        operation["requestBody"] = _request_body(method.input_type, schemas, path)
    return operation


def _request_body(message: Descriptor, schemas: _Schemas, path: str) -> Json:
    """Describe a request: a photo, or JSON without the fields in the path."""
    inner = dict(name.split(".") for name in _PATH_FIELD.findall(path) if name.count(".") == 1)
    properties = {}
    for field in message.fields:
        schema = schemas.of_field(field)
        if field.name in inner and field.message_type is not None:
            kept = [part for part in field.message_type.fields if part.name != inner[field.name]]
            schema = schemas.of_fields(field, kept) | {"maxProperties": 1}
        properties[field.json_name] = schema
    as_json: Json = {"schema": {"type": "object", "properties": properties, "required": ["image"]}}
    photo = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {"application/json": as_json} | dict.fromkeys(_STATIC["photo_types"], photo)}


def _plain(name: str) -> str:
    return name.replace(".", "_")


def read_protoset() -> tuple[DescriptorPool, dict[str, str]]:
    """Read what `scripts/stubs.py` wrote: our protos, their imports, and comments as one line by full name, else ""."""
    pool, found = DescriptorPool(), defaultdict[str, str](str)
    for file in descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes()).file:
        pool.Add(file)
        for location in file.source_code_info.location:
            words = " ".join(location.leading_comments.split())
            if words and (name := ".".join(_names(file, list(location.path)))):
                found[name] = words
    return pool, found


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
