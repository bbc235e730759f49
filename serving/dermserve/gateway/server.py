"""Build, start, drain and stop everything of the gateway that has state, in one order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dermserve.gateway import certificates
from dermserve.gateway.admission import Receiving
from dermserve.gateway.background import Background
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.classify import Classifier
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics, Snapshot, serve_metrics
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.reflection import add_reflection
from dermserve.gateway.rpc import Rpcs
from dermserve.gateway.service import HEALTH, SERVICE, ClassifierService
from dermserve.gateway.tfserving import TfServing
from dermserve.gateway.tracing import Tracing, open_tracing

LIVENESS = "liveness"  # health name that is SERVING while the gateway runs, for liveness probes
_log = structlog.get_logger(__name__)

_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
_PEERS_SECONDS = 60.0  # seconds between looks at the certificates that model servers show
_MESSAGE_ROOM = 12_000_000  # bytes beyond the photo limit, so that a photo that is too large gets our error, not gRPC's
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # otherwise a second server could take the same port and get half of the calls
    # Peers may ping, with and without calls, without being sent GOAWAY too_many_pings (grpc#33661).
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    # Bytes that each call may send before its handler reads; by default gRPC allows more the faster they come.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4_000_000),
    # Calls that wait in gRPC's core, before a handler has them. It ends further ones as CANCELLED, which clients do not
    # retry; by default it begins with that at 1,000.
    ("grpc.server.max_pending_requests", 3000),
    ("grpc.server.max_pending_requests_hard_limit", 3000),
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    address: str  # HOST:PORT with the chosen port, or unix:PATH
    metrics_address: str | None  # HOST:PORT of the metrics, if they are served


@contextlib.asynccontextmanager
async def lifespan(config: Config, *, stop_now: asyncio.Event | None = None) -> AsyncIterator[Gateway]:
    """Run the gateway while the block lasts.

    On the way out: health says NOT_SERVING, no RPC is accepted, those in flight have the grace to finish, then
    the polling stops, the channels close and the threads end. Once `stop_now` is set, nothing is waited for; it is set,
    too, when nothing is left to wait for.

    Raises:
        OSError: an address is taken or wrong; a certificate can't be read, is not valid, or does not match its key.
    """
    async with contextlib.AsyncExitStack() as stack:
        servicer = health.aio.HealthServicer()
        if config.health_listen is not None:  # open to the very end, so that probes see NOT_SERVING while draining
            probes = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_receive_message_length", 4096)))
            health_pb2_grpc.add_HealthServicer_to_server(servicer, probes)
            _log.info("health_listening", address=await _start(probes, config.health_listen))
            stack.push_async_callback(probes.stop, None)
        tracing = open_tracing(os.environ)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        own = certificates.TlsFiles(config, "tls") if config.tls_certificate else None
        towards_servers = certificates.model_server_files(config)
        servers = await connect(config, tracing, towards_servers)
        stack.push_async_callback(servers.close)
        catalog = Catalog(servers, config)
        await _report(servicer, ready=False)
        metrics = Metrics(config.models)
        classifier = Classifier(config, servers, catalog, metrics)
        stack.push_async_callback(classifier.close)
        await classifier.canary.read()

        background = Background()
        stack.push_async_callback(background.close)
        background.repeat(classifier.canary.read, lambda: config.poll_seconds)
        background.repeat(servers.resolve, lambda: config.resolve_seconds)
        if towards_servers:
            background.repeat(lambda: servers.renew_channels(towards_servers), lambda: config.resolve_seconds)
            background.repeat(servers.look_at_certificates, lambda: _PEERS_SECONDS)
        metrics_address = None
        if config.metrics_listen is not None:
            metrics.registry.register(Snapshot(classifier, (own, towards_servers)))
            metrics_address, stop_metrics = serve_metrics(metrics.registry, config.metrics_listen)
            stack.push_async_callback(asyncio.to_thread, stop_metrics)
            _log.info("metrics_listening", address=metrics_address)
        rpcs = Rpcs(config, metrics=metrics, tracing=tracing, finished=stop_now or asyncio.Event())
        server = grpc.aio.server(options=_server_options(config), interceptors=tracing.server_interceptors)
        if config.reflection:
            add_reflection((SERVICE, HEALTH), server)
        receiving, at_once = Receiving(config.photo_memory), config.stream_at_once
        ClassifierService(classifier, rpcs=rpcs, receiving=receiving, stream_at_once=at_once).add_to(server, servicer)
        address = await _start(server, config.listen, credentials=own.server if own else None)
        stack.push_async_callback(_drain, server, rpcs, servicer, config.grace_seconds)
        _log.info("listening", address=address, tfs=config.tfs, models=config.models)
        serving = False

        async def poll() -> None:
            nonlocal serving
            await catalog.poll()
            serving = await _report(servicer, ready=catalog.ready, before=serving, address=address)

        background.repeat(poll, catalog.pause)
        yield Gateway(address, metrics_address)


async def connect(config: Config, tracing: Tracing, tls: certificates.TlsFiles | None) -> ModelServers:
    """Make the model servers of a configuration, whose channels use the TLS files as they are then."""

    def open_one(target: str, host: str) -> TfServing:
        name = config.tfs_tls_name or host
        return TfServing(target, host=name, tls=tls, interceptors=tracing.client_interceptors)

    servers = ModelServers(config.tfs, connect=open_one, slots=config.tfs_in_flight)
    await servers.resolve()
    return servers


def _server_options(config: Config) -> list[tuple[str, int]]:
    options = [*_OPTIONS, ("grpc.max_receive_message_length", config.max_image_bytes + _MESSAGE_ROOM)]
    if config.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1e3)))
        options.append(("grpc.max_connection_age_grace_ms", int(config.max_deadline_seconds * 1e3)))
    return options


async def _report(servicer: health.aio.HealthServicer, *, ready: bool, before: bool = False, address: str = "") -> bool:
    """Set the health, which has no effect once the gateway is stopping; log a change. Returns `ready`."""
    for name in ("", SERVICE):
        await servicer.set(name, _SERVING if ready else _NOT_SERVING)
    await servicer.set(LIVENESS, _SERVING)
    if ready is not before:
        _log.info("health_changed", serving=ready, address=address)
    return ready


async def _drain(server: grpc.aio.Server, rpcs: Rpcs, servicer: health.aio.HealthServicer, grace: float) -> None:
    """Stop as soon as nothing is in flight, the grace is over, or a second signal came.

    gRPC's own graceful stop is not used: it waits for health watchers, which never end, and calls that arrive too
    late end as CANCELLED, which clients do not retry, instead of UNAVAILABLE.
    """
    await servicer.enter_graceful_shutdown()
    await rpcs.finish(grace)
    await server.stop(None)
    _log.info("stopped")


async def _start(server: grpc.aio.Server, listen: str, *, credentials: grpc.ServerCredentials | None = None) -> str:
    """Start on HOST:PORT or unix:PATH; return the address, with the chosen port.

    Raises:
        OSError: the address is taken or wrong.
    """
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"can't listen on {listen}: is the port taken, or not an address of this machine?") from error
    await server.start()
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
