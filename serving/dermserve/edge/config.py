"""Envoy's configuration: the YAML templates beside this file, with the settings filled in."""

import base64
import functools
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2

from dermserve.edge.settings import Settings, SettingsError, read_keys, split_address

_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_JSON_OVERHEAD = 4096
_CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = {
    "content-security-policy": _CSP,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_API_PAGE = "/api/"
"""RapiDoc has styles within its elements; only this page may have them."""
_STS = {"strict-transport-security": "max-age=31536000"}
_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tflite": "application/octet-stream",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
}
# Envoy's own errors: HTTP status, gRPC status code, reason, message, and the type of body if it is for one type. The
# first match is used. No message repeats a part of the request.
_REPLIES = (
    (
        *(400, 3, "MALFORMED_REQUEST"),
        'the JSON or the query is not a ClassifyRequest: send {"image": "<the photo as base64>", "tta": "FULL"}; '
        "/openapi.json lists all fields and parameters",
        "json",
    ),
    (
        *(400, 3, "MALFORMED_REQUEST"),
        "the query has an unknown parameter or a wrong value: it takes tta (NONE, FULL or ADAPTIVE), and version (a "
        "number) or label",
        "photo",
    ),
    (400, 3, "MALFORMED_REQUEST", "the request is malformed: /openapi.json lists paths, parameters and bodies", ""),
    (401, 16, "UNAUTHENTICATED", "send a valid API key (x-api-key) or token (Authorization: Bearer …)", ""),
    (403, 7, "PERMISSION_DENIED", "this key or token is not valid here", ""),
    (404, 5, "NO_SUCH_ROUTE", "there is nothing at this path: /openapi.json lists what there is", ""),
    (405, 3, "METHOD_NOT_ALLOWED", "this path takes another method: see /openapi.json", ""),
    (408, 4, "UPLOAD_TOO_SLOW", "the request did not arrive in time: send a smaller photo or try again", ""),
    (413, 8, "IMAGE_TOO_LARGE", "the request is too large: send a smaller photo", ""),
    (
        *(415, 3, "UNSUPPORTED_MEDIA_TYPE"),
        "send the photo as the whole body (curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'), not as a form "
        "and not compressed, or JSON with its base64 (Content-Type: application/json)",
        "",
    ),
    (426, 3, "MALFORMED_REQUEST", "use HTTP/1.1 or HTTP/2", ""),
    (429, 8, "RATE_LIMITED", "too many requests: try again after the seconds in Retry-After", ""),
    (431, 3, "MALFORMED_REQUEST", "the request's headers are too large", ""),
    (500, 13, "INTERNAL", "internal error", ""),
    (502, 14, "UNAVAILABLE", "the gateway gave no valid answer: try again", ""),
    (503, 14, "UNAVAILABLE", "no gateway can answer: try again after the seconds in Retry-After", ""),
    (504, 4, "DEADLINE_EXCEEDED", "no answer in time: ask for fewer views or try again", ""),
)


def envoy_config(settings: Settings, *, folder: pathlib.Path | None = None) -> dict[str, str]:
    """Write the configuration as YAML, for `envoy -c FOLDER/envoy.yaml`.

    Returns `envoy.yaml`, and a file for each certificate, which Envoy watches and for which it needs the folder.

    Raises SettingsError: the file of API keys can't be used, or certificates are set and no folder.
    """
    import jinja2  # in the extra `edge`; not needed by `dermserve up` and `demo` without an edge

    certificates = {
        "tls": (settings.tls_cert, settings.tls_key),
        "gateway_ca": (settings.gateway_tls_ca, None),
        "gateway_tls": (settings.gateway_tls_ca and settings.gateway_tls_cert, settings.gateway_tls_key),
    }
    secrets = {name: files for name, files in certificates.items() if files[0]}
    if secrets and folder is None:
        raise SettingsError(
            "certificates are in files beside the configuration, so that Envoy reloads them: give --out"
        )
    environment = jinja2.Environment(  # noqa: S701 - YAML; each value is quoted by `q`
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["q"] = functools.partial(json.dumps, default=str)
    values = _values(settings) | {"sds": functools.partial(_sds, folder)}

    def part(name: str, width: int, **more: Any) -> str:
        text = environment.get_template(name).render(values, part=part, **more)
        return text.strip().replace("\n", "\n" + " " * width)

    files = {f"{name}.yaml": part("secret.yaml", 0, secret=name, certificate=certificate, key=key) + "\n"
             for name, (certificate, key) in secrets.items()}  # fmt: skip
    return {"envoy.yaml": part("envoy.yaml", 0) + "\n", **files}


def write_config(settings: Settings, out: pathlib.Path) -> None:
    """Write the configuration to a file that only its owner and group can read, and what it names beside it.

    Raises SettingsError: the file of API keys can't be used.
    """
    for name, text in envoy_config(settings, folder=out.absolute().parent).items():
        file = out if name == "envoy.yaml" else out.with_name(name)
        file.touch(mode=0o640)
        file.write_text(text, encoding="utf-8")


def _sds(folder: pathlib.Path | None, name: str) -> str:
    source = {"path_config_source": {"path": str(folder and folder / f"{name}.yaml")}, "resource_api_version": "V3"}
    return json.dumps({"name": name, "sds_config": source})


def _values(settings: Settings) -> dict[str, Any]:
    return {
        "s": settings,
        "address": _address,
        "authenticates": settings.authenticates,
        "descriptors": _descriptors(),
        "files": list(_files(settings)),
        "gateway_name": settings.gateway_tls_name or split_address(settings.gateway, name="gateway")[0],
        "keys": read_keys(settings.keys) if settings.keys else {},
        "max_json_bytes": (settings.max_photo_bytes + 2) // 3 * 4 + _JSON_OVERHEAD,
        "replies": _REPLIES,
        "schemes": [
            *(['Bearer realm="dermserve"'] if settings.jwks else []),
            *(['ApiKey realm="dermserve", header="x-api-key"'] if settings.keys else []),
        ],
        "security_headers": (_SECURITY | (_STS if settings.tls_cert else {})).items(),
        "source": lambda name: (_TEMPLATES / name).read_text(encoding="utf-8"),
    }


def _address(text: str) -> str:
    host, port = split_address(text, name="address")
    return f"{{socket_address: {{address: {json.dumps(host)}, port_value: {port}}}}}"


def _files(settings: Settings) -> Iterator[dict[str, str]]:
    for path in sorted(settings.www.rglob("*")):
        if not path.is_file() or path.suffix[1:] not in _CONTENT_TYPES:
            continue
        place = path.relative_to(settings.www).as_posix()
        path_served = f"/{place.removesuffix('index.html')}"
        yield {
            "path": path_served,
            "csp": _CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") * (path_served == _API_PAGE),
            "shown": str(path),
            "type": _CONTENT_TYPES[path.suffix[1:]],
            "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:32],
        }


def _descriptors() -> str:
    """Return the descriptors of the API's files and their imports, without comments, as base64."""
    text = importlib.resources.files("dermserve.v1").joinpath("dermserve.protoset").read_bytes()
    found = descriptor_pb2.FileDescriptorSet.FromString(text)
    for file in found.file:
        file.ClearField("source_code_info")
    return base64.b64encode(found.SerializeToString(deterministic=True)).decode()
