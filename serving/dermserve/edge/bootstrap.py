"""Envoy's whole configuration, written once for a laptop and for Kubernetes."""

import pathlib
from collections.abc import Iterator

from dermserve.edge.filters import http_filters
from dermserve.edge.replies import local_replies
from dermserve.edge.routes import max_json_bytes, route_configuration
from dermserve.edge.settings import Settings
from dermserve.edge.typed import CLIENT_HEADER, Json, named, seconds, socket_address, typed

_MIB = 1024 * 1024
_HTTP2_UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(settings: Settings) -> Json:
    """Make the configuration, for `envoy -c` as JSON."""
    listeners = [_edge(settings)]
    clusters = [_gateway(settings)]
    if settings.metrics is not None:
        listeners.append(_metrics(settings.metrics))
        clusters.append(_admin(settings))
    return {
        "admin": {"address": socket_address(settings.admin)},
        "node": {"id": "dermserve-edge", "cluster": "dermserve-edge"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": _overload(settings),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
    }


_RUNTIME: Json = {
    # A client that opens streams and resets them at once is cut off (CVE-2023-44487).
    "overload.premature_reset_total_stream_count": 500,
    "http.max_requests_per_io_cycle": 5,
}


def _edge(settings: Settings) -> Json:
    chain: Json = {"filters": [_connection_manager(settings)]}
    if settings.certificate is not None:
        chain["transport_socket"] = named(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [_certificate(settings.certificate, settings.key)],
            },
        )
        chain["transport_socket_connect_timeout"] = "10s"
    return {
        "name": "edge",
        "address": socket_address(settings.listen),
        "filter_chains": [chain],
        # The photo is held until it is whole, to be turned into a message.
        "per_connection_buffer_limit_bytes": max_json_bytes(settings) + _MIB,
    }


def _connection_manager(settings: Settings) -> Json:
    return named(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        server_name="dermserve",
        route_config=route_configuration(settings),
        http_filters=http_filters(settings),
        local_reply_config=local_replies(),
        access_log=list(_access_log()),
        early_header_mutation_extensions=[_forget_client()],
        request_timeout=seconds(settings.upload_seconds),
        request_headers_timeout="10s",
        stream_idle_timeout=seconds(settings.answer_seconds),
        drain_timeout="10s",
        use_remote_address=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        max_request_headers_kb=32,
        common_http_protocol_options={
            "idle_timeout": "300s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        http2_protocol_options={
            "max_concurrent_streams": settings.max_streams,
            "initial_stream_window_size": _MIB,
            "initial_connection_window_size": 4 * _MIB,
        },
    )


def _forget_client() -> Json:
    """Remove from each request what only the edge may say."""
    return named(
        "envoy.http.early_header_mutation.header_mutation",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"remove": CLIENT_HEADER}],
    )


def _access_log() -> Iterator[Json]:
    """One line of JSON a request: no query, no header a person wrote, nothing of the body."""
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ_WITHOUT_QUERY(:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "client": f"%REQ({CLIENT_HEADER.upper()})%",
    }
    yield named(
        "envoy.access_loggers.stdout",
        "access_loggers.stream.v3.StdoutAccessLog",
        log_format={
            "json_format": fields,
            "formatters": [
                named("envoy.formatter.req_without_query", "formatter.req_without_query.v3.ReqWithoutQuery")
            ],
        },
    )


def _gateway(settings: Settings) -> Json:
    cluster: Json = {
        "name": "gateway",
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": "gateway",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(settings.gateway)}}]}],
        },
        "typed_extension_protocol_options": {_HTTP2_UPSTREAM: _http2()},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "5s",
                "no_traffic_interval": "5s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        "circuit_breakers": {
            "thresholds": [{"max_connections": 100, "max_pending_requests": 1000, "max_requests": 2000}]
        },
        "outlier_detection": {
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "interval": "5s",
            "base_ejection_time": "15s",
            "max_ejection_percent": 50,
        },
        # A gateway that is gone from DNS is dropped even while checks still pass.
        "ignore_health_on_host_removal": True,
    }
    if settings.gateway_tls_ca is not None:
        cluster["transport_socket"] = _tls_to_gateway(settings)
    return cluster


def _tls_to_gateway(settings: Settings) -> Json:
    name = settings.gateway_tls_name or settings.gateway.rpartition(":")[0]
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    context: Json = {
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": str(settings.gateway_tls_ca)},
            "match_typed_subject_alt_names": names,
        },
    }
    if settings.gateway_tls_cert is not None:
        context["tls_certificates"] = [_certificate(settings.gateway_tls_cert, settings.gateway_tls_key)]
    return named(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        sni=name,
        common_tls_context=context,
    )


def _certificate(chain: pathlib.Path, key: pathlib.Path | None) -> Json:
    return {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}


def _http2() -> Json:
    return typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={
            "http2_protocol_options": {
                "initial_stream_window_size": _MIB,
                "initial_connection_window_size": 16 * _MIB,
                # A gateway that vanished without a word is noticed.
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            }
        },
    )


def _metrics(address: str) -> Json:
    """A listener that gives the two harmless paths of the admin interface."""
    paths = ("/stats/prometheus", "/ready")
    return {
        "name": "metrics",
        "address": socket_address(address),
        "filter_chains": [
            {
                "filters": [
                    named(
                        "envoy.filters.network.http_connection_manager",
                        "filters.network.http_connection_manager.v3.HttpConnectionManager",
                        stat_prefix="metrics",
                        http_filters=[named("envoy.filters.http.router", "filters.http.router.v3.Router")],
                        route_config={
                            "virtual_hosts": [
                                {
                                    "name": "metrics",
                                    "domains": ["*"],
                                    "routes": [
                                        {"match": {"path": path}, "route": {"cluster": "admin"}} for path in paths
                                    ],
                                }
                            ]
                        },
                    )
                ]
            }
        ],
    }


def _admin(settings: Settings) -> Json:
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "admin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(settings.admin)}}]}],
        },
    }


def _overload(settings: Settings) -> Json:
    """Shed load before memory runs out: first give memory back, then new work, then the largest streams."""

    def above(share: float) -> Json:
        return {"name": _HEAP, "threshold": {"value": share}}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            named(_HEAP, "resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=settings.heap_bytes),
            named(
                "envoy.resource_monitors.global_downstream_max_connections",
                "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=settings.max_connections,
            ),
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [above(0.8)]},
            {"name": "envoy.overload_actions.disable_http_keepalive", "triggers": [above(0.9)]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [above(0.95)]},
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [{"name": _HEAP, "scaled": {"scaling_threshold": 0.9, "saturation_threshold": 0.98}}],
            },
        ],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
    }


_HEAP = "envoy.resource_monitors.fixed_heap"
