"""Which request goes where, and what may be asked of it there."""

import pathlib
from collections.abc import Iterable, Iterator

from dermserve.edge.descriptors import SERVICE
from dermserve.edge.settings import Settings
from dermserve.edge.typed import CLIENT_HEADER, Json, seconds, typed

CLASSIFY = r"/v1/models/[^/:]+:classify"
MODELS = r"/v1/models(/[^/:]+)?"
BEARER = "Bearer "
PHOTO_TYPES = r"(image/.*|application/octet-stream)"

API_KEY = "envoy.filters.http.api_key_auth"
LUA = "envoy.filters.http.lua"
RATE = "envoy.filters.http.local_ratelimit"
BUFFER = "envoy.filters.http.buffer"

_JSON_OVERHEAD = 4096
_MAX_FILE = 32 * 1024 * 1024
_OFF: Json = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
_ALLOWED = (
    *("authorization", "content-type", "grpc-timeout", "x-api-key", "x-caller-key"),
    *("x-grpc-web", "x-request-id", "x-user-agent"),
)
_EXPOSED = (
    *("grpc-message", "grpc-status", "grpc-status-details-bin", "x-request-id"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
_GRPC_METHODS = ("Classify", "ListModels", "GetModel")


def route_configuration(settings: Settings) -> Json:
    """Make the whole route table; the first route that matches has it."""
    routes = [
        _preflight(settings),
        *_with_auth(settings, _photo(settings)),
        *_with_auth(settings, _json(settings)),
        *_with_auth(settings, _api(settings, {"safe_regex": {"regex": MODELS}}, "GET")),
        _refuse(settings, {"safe_regex": {"regex": CLASSIFY}}, 405, allow="POST"),
        _refuse(settings, {"safe_regex": {"regex": MODELS}}, 405, allow="GET"),
        *(route for method in _GRPC_METHODS for route in _with_auth(settings, _unary(settings, method))),
        *_with_auth(settings, _stream(settings)),
        _health(settings),
        *_files(settings),
        _refuse(settings, {"prefix": "/"}, 404),
    ]
    return {
        "name": "edge",
        "max_direct_response_body_size_bytes": _MAX_FILE,
        "virtual_hosts": [
            {
                "name": "edge",
                "domains": ["*"],
                "routes": routes,
                "rate_limits": [{"actions": [_caller(settings)]}],
                "typed_per_filter_config": {"envoy.filters.http.cors": _cors(settings)},
            }
        ],
    }


def _preflight(settings: Settings) -> Json:
    """What a browser asks first for another page; the CORS filter answers it, and does so on such routes alone."""
    asks = {"name": "access-control-request-method", "present_match": True}
    match = {"prefix": "/", "headers": [_method("OPTIONS"), {"name": "origin", "present_match": True}, asks]}
    return {"match": match, "route": _to_gateway(settings), **_open(settings)}


def _caller(settings: Settings) -> Json:
    """Tell clients apart, for the rate limit."""
    if settings.authenticates:
        return {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}
    return {"remote_address": {}}


def _cors(settings: Settings) -> Json:
    return typed(
        "filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in settings.origins],
        allow_methods="GET, POST, OPTIONS",
        allow_headers=", ".join(_ALLOWED),
        expose_headers=", ".join(_EXPOSED),
        max_age="86400",
        forward_not_matching_preflights=False,
    )


def _with_auth(settings: Settings, route: Json) -> Iterator[Json]:
    """Give a route its ways in: a bearer token, an API key, or neither where none is asked for."""
    if settings.keys and settings.jwt:
        headers = [*route["match"].get("headers", []), bearer()]
        filters = {**route.get("typed_per_filter_config", {}), API_KEY: _OFF}
        yield {**route, "match": {**route["match"], "headers": headers}, "typed_per_filter_config": filters or {}}
    yield route


def bearer() -> Json:
    """Match a request that brings a token."""
    return {"name": "authorization", "string_match": {"prefix": BEARER}}


def _method(*names: str) -> Json:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(names)}}}


def _to_gateway(settings: Settings, **more: object) -> Json:
    return {
        "cluster": "gateway",
        "timeout": seconds(settings.answer_seconds),
        "idle_timeout": seconds(settings.answer_seconds),
        "max_stream_duration": {
            "max_stream_duration": seconds(settings.upload_seconds + settings.answer_seconds),
            "grpc_timeout_header_max": seconds(settings.answer_seconds),
        },
        **more,
    }


def _api(
    settings: Settings, path: Json, method: str, *, headers: Iterable[Json] = (), filters: Json | None = None
) -> Json:
    match = {**path, "headers": [_method(method), *headers]}
    return {"match": match, "route": _to_gateway(settings), "typed_per_filter_config": filters or {}}


def _photo(settings: Settings) -> Json:
    """A photo as the whole body."""
    kind = {"name": "content-type", "string_match": {"safe_regex": {"regex": PHOTO_TYPES}}}
    return _classify(settings, headers=[kind], max_photo_bytes=settings.max_photo_bytes)


def _json(settings: Settings) -> Json:
    """A photo in JSON, as base64."""
    return _classify(settings)


def _classify(settings: Settings, *, headers: Iterable[Json] = (), **context: int) -> Json:
    filters = {
        LUA: typed("filters.http.lua.v3.LuaPerRoute", name="photo", filter_context=context),
        # Not max_photo_bytes: this limits what a photo is turned into, too.
        BUFFER: whole(max_json_bytes(settings)),
    }
    return _api(settings, {"safe_regex": {"regex": CLASSIFY}}, "POST", headers=headers, filters=filters)


def max_json_bytes(settings: Settings) -> int:
    """How long JSON with the largest photo may be."""
    return (settings.max_photo_bytes + 2) // 3 * 4 + _JSON_OVERHEAD


def whole(max_bytes: int) -> Json:
    """Hold a request until it is whole, so that slow senders cost the gateway nothing; refuse one that is too long."""
    return typed("filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": max_bytes})


def _unary(settings: Settings, method: str) -> Json:
    return _api(
        settings,
        {"path": f"/{SERVICE}/{method}"},
        "POST",
        filters={BUFFER: whole(max_json_bytes(settings))},
    )


def _stream(settings: Settings) -> Json:
    """Photos for as long as the caller likes; it ends when nothing passes either way."""
    route = {
        "cluster": "gateway",
        "timeout": "0s",
        "idle_timeout": seconds(settings.answer_seconds),
        "max_stream_duration": {"max_stream_duration": "0s"},
    }
    match = {"path": f"/{SERVICE}/ClassifyStream", "headers": [_method("POST")]}
    return {"match": match, "route": route}


def _health(settings: Settings) -> Json:
    """The standard health service, without a key: load balancers have none."""
    route = {"cluster": "gateway", "timeout": "0s", "idle_timeout": "3600s"}
    return {"match": {"prefix": "/grpc.health.v1.Health/"}, "route": route, **_open(settings)}


def _open(settings: Settings) -> Json:
    """For everyone, as often as they like."""
    return {"typed_per_filter_config": {RATE: _OFF, **({API_KEY: _OFF} if settings.keys else {})}}


def _files(settings: Settings) -> Iterator[Json]:
    """The page, its on-device model and the OpenAPI document: to everyone, as they hold no secret."""
    yield {"match": {"path": "/"}, "redirect": {"path_redirect": "/app/", "response_code": "FOUND"}, **_open(settings)}
    yield {"match": {"path": "/app"}, "redirect": {"path_redirect": "/app/"}, **_open(settings)}
    for path in sorted(settings.www.rglob("*")):
        if path.is_file() and path.suffix[1:] in _CONTENT_TYPES:
            yield _file(settings, path)


def _file(settings: Settings, path: pathlib.Path) -> Json:
    """A file, which Envoy holds in memory. Not its file server: that is marked as not for production yet."""
    place = path.relative_to(settings.www).as_posix()
    headers = {"content-type": _CONTENT_TYPES[path.suffix[1:]], "cache-control": "no-cache"}
    shown = settings.www_seen / place if settings.www_seen else path
    return {
        "match": {"path": f"/{place.removesuffix('index.html')}", "headers": [_method("GET", "HEAD")]},
        "direct_response": {"status": 200, "body": {"filename": str(shown)}},
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
        **_open(settings),
    }


_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tflite": "application/octet-stream",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
}


def _refuse(settings: Settings, path: Json, status: int, *, allow: str = "") -> Json:
    route: Json = {"match": path, "direct_response": {"status": status}, **_open(settings)}
    if allow:
        route["response_headers_to_add"] = [{"header": {"key": "allow", "value": allow}}]
    return route
