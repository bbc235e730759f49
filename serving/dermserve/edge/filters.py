"""The chain each request goes through, in order: who asks and whether they may, before what is asked is looked at."""

import base64
import pathlib
from collections.abc import Iterator

from dermserve.edge.descriptors import SERVICE, descriptor_set
from dermserve.edge.routes import API_KEY, BUFFER, LUA, RATE, bearer, max_json_bytes
from dermserve.edge.settings import Jwt, Settings
from dermserve.edge.typed import CLIENT_HEADER, Json, named

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
_STS = {"strict-transport-security": "max-age=31536000"}


def http_filters(settings: Settings) -> list[Json]:
    """Make the chain."""
    return [
        _security_headers(settings),
        named("envoy.filters.http.cors", "filters.http.cors.v3.Cors"),
        _compressor(),
        _health_check(),
        named("envoy.filters.http.grpc_web", "filters.http.grpc_web.v3.GrpcWeb"),
        *_authentication(settings),
        _rate_limit(settings),
        {
            **named(BUFFER, "filters.http.buffer.v3.Buffer", max_request_bytes=max_json_bytes(settings)),
            "disabled": True,
        },
        _photo_body(),
        _transcoder(settings),
        named(
            "envoy.filters.http.grpc_stats",
            "filters.http.grpc_stats.v3.FilterConfig",
            individual_method_stats_allowlist={
                "services": [
                    {"name": SERVICE, "method_names": ["Classify", "ClassifyStream", "ListModels", "GetModel"]}
                ]
            },
        ),
        named("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
    ]


def _security_headers(settings: Settings) -> Json:
    headers = _SECURITY | (_STS if settings.certificate else {})
    mutations = [
        {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for key, value in headers.items()
    ]
    return named(
        "envoy.filters.http.header_mutation",
        "filters.http.header_mutation.v3.HeaderMutation",
        mutations={"response_mutations": mutations},
    )


def _compressor() -> Json:
    types = ["text/html", "text/css", "text/javascript", "application/json", "application/wasm", "image/svg+xml"]
    return named(
        "envoy.filters.http.compressor",
        "filters.http.compressor.v3.Compressor",
        response_direction_config={
            "common_config": {"min_content_length": 1024, "content_type": types},
            "remove_accept_encoding_header": True,
        },
        compressor_library=named(
            "gzip", "compression.gzip.compressor.v3.Gzip", memory_level=8, window_bits=15, chunk_size=16384
        ),
    )


def _health_check() -> Json:
    """Answer /healthz: 200 while a gateway can answer."""
    return named(
        "envoy.filters.http.health_check",
        "filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        cluster_min_healthy_percentages={"gateway": {"value": 1}},
        headers=[{"name": ":path", "string_match": {"exact": "/healthz"}}],
    )


def _authentication(settings: Settings) -> Iterator[Json]:
    if settings.jwt is not None:
        yield _jwt(settings.jwt, required=not settings.keys)
    if settings.keys:
        yield named(
            API_KEY,
            "filters.http.api_key_auth.v3.ApiKeyAuth",
            credentials=[{"client": client, "key": key} for client, key in settings.keys],
            key_sources=[{"header": "x-api-key"}],
            forwarding={"header": CLIENT_HEADER, "hide_credentials": True},
        )


def _jwt(jwt: Jwt, *, required: bool) -> Json:
    """Check tokens: of every request to the API, or of those that bring one where a key will do as well."""
    provider: Json = {
        "issuer": jwt.issuer,
        "local_jwks": {"filename": str(jwt.jwks)},
        "forward": False,
        "claim_to_headers": [{"header_name": CLIENT_HEADER, "claim_name": "sub"}],
        "clock_skew_seconds": 30,
    }
    if jwt.audiences:
        provider["audiences"] = list(jwt.audiences)
    api = [{"prefix": "/v1/"}, {"prefix": f"/{SERVICE}/"}]
    rules = [
        {"match": match if required else {**match, "headers": [bearer()]}, "requires": {"provider_name": "tokens"}}
        for match in api
    ]
    return named(
        "envoy.filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"tokens": provider},
        rules=rules,
        bypass_cors_preflight=True,
    )


def _rate_limit(settings: Settings) -> Json:
    """Let each client ask so often, with a bucket of its own that appears when it first asks."""
    bucket = {
        "max_tokens": settings.burst,
        "tokens_per_fill": max(1, settings.requests_per_minute // 60) if settings.requests_per_minute >= 60 else 1,
        "fill_interval": "1s" if settings.requests_per_minute >= 60 else f"{60 / settings.requests_per_minute:g}s",
    }
    key = "client" if settings.authenticates else "remote_address"
    everyone = {"max_tokens": 100_000, "tokens_per_fill": 100_000, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return named(
        RATE,
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="clients",
        token_bucket=everyone,
        filter_enabled=always,
        filter_enforced=always,
        descriptors=[{"entries": [{"key": key}], "token_bucket": bucket}],
        max_dynamic_descriptors=10_000,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        rate_limited_as_resource_exhausted=True,
    )


def _photo_body() -> Json:
    script = pathlib.Path(__file__).with_name("photo.lua").read_text(encoding="utf-8")
    return named(LUA, "filters.http.lua.v3.Lua", source_codes={"photo": {"inline_string": script}})


def _transcoder(settings: Settings) -> Json:
    descriptors = base64.b64encode(descriptor_set().SerializeToString(deterministic=True)).decode()
    return named(
        "envoy.filters.http.grpc_json_transcoder",
        "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor_bin=descriptors,
        services=[SERVICE],
        convert_grpc_status=True,
        print_options={"always_print_primitive_fields": True},
        request_validation_options={
            "reject_unknown_method": False,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        max_request_body_size=max_json_bytes(settings),
        max_response_body_size=16 * 1024 * 1024,
    )
