"""Make the OpenAPI 3.1 document of the JSON routes from the proto: its routes, messages, enums and comments."""

import json
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any, TypeAlias

from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from proto_comments import comments, read_protoset

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "serving/dermserve/edge/site/openapi.json"
_SERVICE = "dermserve.v1.Classifier"
Json: TypeAlias = dict[str, Any]

_PATH_FIELD = re.compile(r"\{([a-z_.]+)\}")
_PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic", "application/octet-stream")
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
    """Write the OpenAPI 3.1 document of the committed descriptor set, as JSON."""
    files, pool = read_protoset(), DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    service, schemas = pool.FindServiceByName(_SERVICE), _Schemas(comments(files))
    paths: dict[str, Json] = {}
    for method in service.methods:
        for verb, path, body in _bindings(method):
            shown = _PATH_FIELD.sub(lambda match: "{" + _plain(match[1]) + "}", path)
            operation = _operation(method, schemas, path)
            if body:
                operation["parameters"] += _PHOTO_PARAMETERS
                operation["requestBody"] = _request_body(method.input_type, schemas, path)
            paths.setdefault(shown, {})[verb] = operation
    paths["/healthz"] = _HEALTH
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "dermserve",
            "version": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
            "summary": "A screening aid, never a diagnosis.",
            "description": schemas.words(_SERVICE),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}, {"token": []}],
        "tags": [{"name": service.name}, {"name": "health"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted((schemas.found | _STATUS).items())),
            "responses": {str(code): _error(words) for code, words in _ERRORS.items()},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


class _Schemas:
    """The schemas of messages and enums, made when something refers to them."""

    def __init__(self, comments: dict[str, str]) -> None:
        self.found: dict[str, Json] = {}
        self._comments = comments

    def words(self, name: str) -> str:
        """Return the comment of a declaration by its full name."""
        return self._comments.get(name, "")

    def of_message(self, message: Descriptor) -> Json:
        """Refer to a message."""
        if message.name not in self.found:
            self.found[message.name] = {}  # for recursive messages
            self.found[message.name] = {
                "type": "object",
                "description": self.words(message.full_name),
                "properties": {field.json_name: self.of_field(field) for field in message.fields},
            }
        return {"$ref": f"#/components/schemas/{message.name}"}

    def of_field(self, field: FieldDescriptor) -> Json:
        """Describe a field."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            schema = {
                "type": "object",
                "additionalProperties": self._single(field.message_type.fields_by_name["value"]),
            }
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field)}
        else:
            schema = self._single(field)
        words = self.words(field.full_name)
        return {**schema, "description": words} if words else schema

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self.of_message(field.message_type)
        return dict(_SCALARS[field.type]) if field.enum_type is None else self._of_enum(field.enum_type)

    def _of_enum(self, enum: EnumDescriptor) -> Json:
        beside = enum.full_name.rpartition(".")[0]  # where protobuf puts an enum's values
        values = "\n".join(f"- `{value.name}`: {self.words(f'{beside}.{value.name}')}" for value in enum.values)
        self.found[enum.name] = {
            "type": "string",
            "description": f"{self.words(enum.full_name)}\n\n{values}",
            "enum": [value.name for value in enum.values],
        }
        return {"$ref": f"#/components/schemas/{enum.name}"}


def _operation(method: MethodDescriptor, schemas: _Schemas, path: str) -> Json:
    words, answer = schemas.words(method.full_name), schemas.of_message(method.output_type)
    responses: Json = {"200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}}}
    assert method.containing_service is not None
    return {
        "operationId": method.name,
        "tags": [method.containing_service.name],
        "summary": words.split(".")[0],
        "description": words,
        "parameters": [
            {
                "name": _plain(name),
                "in": "path",
                "required": True,
                "description": schemas.words(_find(method.input_type, name).full_name),
                "schema": {"type": "string", "pattern": "^[^/:]+$", "minLength": 1},
            }
            for name in _PATH_FIELD.findall(path)
        ],
        "responses": responses | {str(code): {"$ref": f"#/components/responses/{code}"} for code in _ERRORS},
    }


def _request_body(message: Descriptor, schemas: _Schemas, path: str) -> Json:
    """Describe a request: a photo, or JSON without the fields in the path."""
    inner = dict(name.split(".") for name in _PATH_FIELD.findall(path) if name.count(".") == 1)
    properties = {}
    for field in message.fields:
        schema = schemas.of_field(field)
        if field.name in inner and field.message_type is not None:
            kept = [part for part in field.message_type.fields if part.name != inner[field.name]]
            schema = {
                "type": "object",
                "description": schemas.words(field.full_name),
                "properties": {part.json_name: schemas.of_field(part) for part in kept},
                "maxProperties": 1,
            }
        properties[field.json_name] = schema
    as_json: Json = {"schema": {"type": "object", "properties": properties, "required": ["image"]}}
    photo = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {"application/json": as_json} | dict.fromkeys(_PHOTO_TYPES, photo)}


def _query(name: str, schema: Json, words: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


_PHOTO_PARAMETERS = [
    _query("tta", {"type": "string", "enum": ["NONE", "FULL", "ADAPTIVE"]}, "Test-time augmentation; NONE by default."),
    _query("version", {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2**63 - 1},
           "This version; not with a label."),
    _query("label", {"type": "string", "pattern": "^[a-z]+$"}, "The version under this label."),
]  # fmt: skip
"""What the query may say instead of the body."""


def _bindings(method: MethodDescriptor) -> Iterator[tuple[str, str, bool]]:
    """Return each of a method's routes: verb, path, whether it has a body."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for one in (rule, *rule.additional_bindings):
        if verb := one.WhichOneof("pattern"):
            yield verb, getattr(one, verb), bool(one.body)


def _find(message: Descriptor, path: str) -> FieldDescriptor:
    *outer, last = path.split(".")
    for name in outer:
        message = message.fields_by_name[name].message_type
    return message.fields_by_name[last]


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _error(words: str) -> Json:
    return {"description": words, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}}


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
