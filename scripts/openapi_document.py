"""The OpenAPI 3.1 document of the JSON routes, from the proto: its routes, messages, enums and comments."""

import json
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any, TypeAlias

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from proto_comments import comments, read_protoset

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "serving/dermserve/edge/site/openapi.json"
_SERVICE = "dermserve.v1.Classifier"
Json: TypeAlias = dict[str, Any]

_TITLE = "dermserve"
_NOTICE = "A screening aid, never a diagnosis."
_PATH_FIELD = re.compile(r"\{([a-z_.]+)\}")
_PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic", "application/octet-stream")
_TTA = ("NONE", "FULL", "ADAPTIVE")
_ERRORS = {
    400: "The request is wrong, or the photo can't be read.",
    401: "No valid API key or token.",
    403: "The token isn't meant for this service.",
    404: "No such model, version or label.",
    408: "The request did not arrive in time.",
    413: "The photo is too large.",
    415: "Not a photo as the whole body or JSON, or compressed.",
    429: "Too many requests, or too busy: try again after the seconds in Retry-After.",
    500: "A defect, to be reported.",
    503: "Not ready, or no gateway: try again later.",
    504: "No answer in time.",
}
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
    """Write the document of the committed descriptor set, as JSON."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return json.dumps(openapi(read_protoset(), version=version), indent=1, ensure_ascii=False) + "\n"


def openapi(files: descriptor_pb2.FileDescriptorSet, *, version: str) -> Json:
    """Write the document.

    Args:
        files: our protos and what they import, with comments (`--include_source_info`).
        version: of dermserve.

    Returns:
        An OpenAPI 3.1 document.
    """
    return _Writer(files).document(version)


class _Writer:
    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        pool = DescriptorPool()
        for file in files.file:
            pool.AddSerializedFile(file.SerializeToString())
        self._comments = comments(files)
        self._service = pool.FindServiceByName(_SERVICE)
        self._schemas: dict[str, Json] = {}

    def document(self, version: str) -> Json:
        paths: dict[str, Json] = {}
        for method in self._service.methods:
            for verb, path, body in _bindings(method):
                shown = _PATH_FIELD.sub(lambda match: "{" + _plain(match[1]) + "}", path)
                paths.setdefault(shown, {})[verb] = self._operation(method, path, body)
        paths["/healthz"] = _HEALTH
        return {
            "openapi": "3.1.0",
            "info": {
                "title": _TITLE,
                "version": version,
                "summary": _NOTICE,
                "description": self._comments.get(_SERVICE, ""),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{}, {"key": []}, {"token": []}],
            "tags": [{"name": self._service.name}, {"name": "health"}],
            "paths": paths,
            "components": {
                "schemas": dict(sorted((self._schemas | _STATUS).items())),
                "responses": {str(code): _error(words) for code, words in _ERRORS.items()},
                "securitySchemes": {
                    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                },
            },
        }

    def _operation(self, method: MethodDescriptor, path: str, body: bool) -> Json:
        words = self._comments.get(method.full_name, "")
        operation: Json = {
            "operationId": method.name,
            "tags": [self._service.name],
            "summary": words.split(".")[0],
            "description": words,
            "parameters": list(self._parameters(method.input_type, path, body)),
            "responses": {
                "200": {
                    "description": "The answer.",
                    "content": {"application/json": {"schema": self._reference(method.output_type)}},
                },
                **{str(code): {"$ref": f"#/components/responses/{code}"} for code in _ERRORS},
            },
        }
        if body:
            schema = self._body(method.input_type, path)
            photo = {"schema": {"type": "string", "format": "binary"}}
            content = {"application/json": {"schema": schema}} | dict.fromkeys(_PHOTO_TYPES, photo)
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def _parameters(self, message: Descriptor, path: str, body: bool) -> Iterator[Json]:
        for name in _PATH_FIELD.findall(path):
            field = _find(message, name)
            schema = {"type": "string", "pattern": "^[^/:]+$", "minLength": 1}
            words = self._comments.get(field.full_name, "")
            yield {"name": _plain(name), "in": "path", "required": True, "description": words, "schema": schema}
        if body:
            yield from _photo_parameters()

    def _body(self, message: Descriptor, path: str) -> Json:
        """A request as JSON, without what the path says already."""
        said = [name.split(".") for name in _PATH_FIELD.findall(path)]
        inner = {names[0]: names[1] for names in said if len(names) == 2}
        properties: Json = {}
        for field in message.fields:
            schema = self._field(field)
            if field.name in inner and field.message_type is not None:
                kept = [part for part in field.message_type.fields if part.name != inner[field.name]]
                schema = {
                    "type": "object",
                    "description": self._comments.get(field.full_name, ""),
                    "properties": {part.json_name: self._field(part) for part in kept},
                    "maxProperties": 1,
                }
            properties[field.json_name] = schema
        return {"type": "object", "properties": properties, "required": ["image"]}

    def _reference(self, message: Descriptor) -> Json:
        if message.name not in self._schemas:
            self._schemas[message.name] = {}  # for messages that hold themselves
            self._schemas[message.name] = {
                "type": "object",
                "description": self._comments.get(message.full_name, ""),
                "properties": {field.json_name: self._field(field) for field in message.fields},
            }
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _enum(self, enum: EnumDescriptor) -> Json:
        if enum.name not in self._schemas:
            values = "\n".join(f"- `{v.name}`: {self._of_value(enum, v.name)}" for v in enum.values)
            self._schemas[enum.name] = {
                "type": "string",
                "description": f"{self._comments.get(enum.full_name, '')}\n\n{values}",
                "enum": [value.name for value in enum.values],
            }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def _of_value(self, enum: EnumDescriptor, name: str) -> str:
        """Give a value's comment; its full name is beside its enum's, not below it."""
        return self._comments.get(f"{enum.full_name.rpartition('.')[0]}.{name}", "")

    def _field(self, field: FieldDescriptor) -> Json:
        words = self._comments.get(field.full_name, "")
        schema = self._map(field) or self._single(field)
        if field.is_repeated and not self._map(field):
            schema = {"type": "array", "items": schema}
        return {**schema, "description": words} if words else schema

    def _map(self, field: FieldDescriptor) -> Json | None:
        message = field.message_type
        if message is None or not message.GetOptions().map_entry:
            return None
        return {"type": "object", "additionalProperties": self._single(message.fields_by_name["value"])}

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self._reference(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(_SCALARS[field.type])


def _photo_parameters() -> Iterator[Json]:
    """What the query may say instead of the body."""
    yield _query("tta", {"type": "string", "enum": list(_TTA)}, "Test-time augmentation; NONE by default.")
    version = {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2**63 - 1}
    yield _query("version", version, "This version; not with a label.")
    yield _query("label", {"type": "string", "pattern": "^[a-z]+$"}, "The version under this label.")


def _query(name: str, schema: Json, words: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


def _bindings(method: MethodDescriptor) -> Iterator[tuple[str, str, bool]]:
    """Give each of a method's routes: verb, path, whether it has a body."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for one in (rule, *rule.additional_bindings):
        verb = one.WhichOneof("pattern")
        if verb is not None:
            yield verb, getattr(one, verb), bool(one.body)


def _find(message: Descriptor, path: str) -> FieldDescriptor:
    *outer, last = path.split(".")
    for name in outer:
        inner = message.fields_by_name[name].message_type
        assert inner is not None, path
        message = inner
    return message.fields_by_name[last]


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _error(words: str) -> Json:
    return {
        "description": words,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
    }


_HEALTH: Json = {
    "get": {
        "operationId": "Health",
        "tags": ["health"],
        "summary": "Says whether a gateway can answer",
        "description": "For load balancers and probes: needs no key, and has no rate limit.",
        "security": [{}],
        "responses": {
            "200": {"description": "A gateway can answer."},
            "503": {"description": "No gateway can answer."},
        },
    }
}
_STATUS: dict[str, Json] = {
    "Status": {
        "type": "object",
        "description": "google.rpc.Status: what went wrong.",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "gRPC status code."},
            "message": {"type": "string", "description": "What is wrong and what to do."},
            "details": {"type": "array", "items": {"$ref": "#/components/schemas/Detail"}},
        },
        "required": ["code", "message"],
    },
    "Detail": {
        "type": "object",
        "description": "google.rpc.ErrorInfo, with a machine-readable reason, or google.rpc.RetryInfo.",
        "properties": {
            "@type": {"type": "string"},
            "reason": {"type": "string"},
            "domain": {"type": "string"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            "retryDelay": {"type": "string", "description": 'Try again after this long, for example "1s".'},
        },
        "required": ["@type"],
    },
}
