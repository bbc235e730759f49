"""Build, start, drain and stop everything of the gateway that has state, in one order."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dermserve.gateway.admission import Admission
from dermserve.gateway.batching import Batching
from dermserve.gateway.canary import Canary
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.certificates import (
    TlsFiles,
    follow_files,
    follow_peers,
    model_server_files,
    server_files,
)
from dermserve.gateway.classify import Classifier
from dermserve.gateway.config import Config
from dermserve.gateway.drift import Drift
from dermserve.gateway.errors import ListenError
from dermserve.gateway.metrics import Metrics, Snapshot, serving_metrics
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.photos import Photos, Workers
from dermserve.gateway.reflection import add_reflection
from dermserve.gateway.rpc import Rpcs
from dermserve.gateway.service import SERVICE, ClassifierService
from dermserve.gateway.tfserving import TfServing
from dermserve.gateway.tracing import Tracing, open_tracing

LIVENESS = "liveness"
"""Health name that is SERVING for as long as the gateway runs: whether to start it again, not whether to ask it."""
_MESSAGE_ROOM = 12_000_000
"""Bytes a message may be over the photo limit, so that a photo that is too large gets our message, not gRPC's."""
_HEALTH_MESSAGE = 4096
"""Bytes of a message to the port for probes."""

_log = structlog.get_logger(__name__)


def announce(event: str, **facts: object) -> None:
    """Log an event that launchers wait for, whatever the level: it is part of the process's interface."""
    anything = structlog.make_filtering_bound_logger(logging.NOTSET)
    structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=anything).info(event, **facts)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    address: str
    """HOST:PORT it listens on, the port resolved, or unix:PATH."""
    stop_now: asyncio.Event
    """Set it to stop without waiting for requests in flight."""
    metrics_address: str | None = None
    """HOST:PORT of the metrics, if they are served."""


@contextlib.asynccontextmanager
async def lifespan(config: Config) -> AsyncIterator[Gateway]:
    """Run the gateway while the block lasts.

    On the way out: health says NOT_SERVING, no RPC is accepted, those in flight have the grace to finish, then
    the polling stops, the channels close and the threads end.

    Raises:
        ListenError: an address is taken or wrong.
        OSError: a certificate can't be read, is none, or its key is another's.
    """
    clock, stop_now, servicer = time.monotonic, asyncio.Event(), health.aio.HealthServicer()
    async with contextlib.AsyncExitStack() as stack:
        workers = Workers(config.decoders, stuck_after=config.decoder_stuck_seconds, clock=clock)
        stack.callback(workers.close)
        if config.health_listen is not None:  # to the very end, so that probes see NOT_SERVING while draining
            probes = grpc.aio.server(options=server_options())
            health_pb2_grpc.add_HealthServicer_to_server(servicer, probes)
            announce("health_listening", address=await _start(probes, config.health_listen))
            stack.push_async_callback(probes.stop, None)
        tracing = open_tracing(os.environ)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        own, towards_servers = server_files(config), model_server_files(config)
        servers = await connect(config, tracing, towards_servers)
        stack.push_async_callback(servers.close)
        catalog = Catalog(servers, config)
        await _report(servicer, ready=False)
        metrics = Metrics(config.models)
        classifier = _build_classifier(config, workers, catalog, servers, metrics, tracing)
        stack.push_async_callback(classifier.canary.close)
        follow = [
            servers.follow(config.resolve_seconds),
            catalog.follow(lambda ready: _report(servicer, ready=ready)),
            classifier.canary.follow(config.poll_seconds),
        ]
        if towards_servers:
            follow.append(follow_files(towards_servers, servers, every=config.resolve_seconds))
            follow.append(follow_peers(towards_servers, servers))
        for work in follow:
            await stack.enter_async_context(_running(work))
        metrics_address = None
        if config.metrics_listen is not None:
            snapshot = Snapshot(
                admission=classifier.admission,
                servers=servers,
                predictor=classifier.predictor,
                catalog=catalog,
                workers=workers,
                drift=classifier.drift,
                tls=[files for files in (own, towards_servers) if files],
            )
            metrics.registry.register(snapshot)
            serving = serving_metrics(metrics.registry, config.metrics_listen)
            metrics_address = await stack.enter_async_context(serving)
            announce("metrics_listening", address=metrics_address)
        rpcs = Rpcs(
            default_seconds=config.default_deadline_seconds,
            max_seconds=config.max_deadline_seconds,
            metrics=metrics,
            tracing=tracing,
            clock=clock,
        )
        server = grpc.aio.server(options=server_options(config), interceptors=tracing.server_interceptors)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        if config.reflection:
            add_reflection((SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server)
        ClassifierService(classifier, rpcs=rpcs, stream_at_once=config.stream_at_once).add_to(server)
        address = await _start(server, config.listen, credentials=own.server if own else None)
        stack.push_async_callback(_drain, server, rpcs, servicer, config.grace_seconds, stop_now)
        announce("listening", address=address, tfs=config.tfs, models=config.models)
        yield Gateway(address, stop_now, metrics_address)


async def connect(config: Config, tracing: Tracing, tls: TlsFiles | None) -> ModelServers:
    """Find and connect to the model servers of a configuration, with the TLS files as they are at the time."""

    def open_one(target: str, host: str) -> TfServing:
        credentials, name = (tls.client if tls else None), config.tfs_tls_name or host
        return TfServing(target, host=name, credentials=credentials, interceptors=tracing.client_interceptors)

    servers = ModelServers(config.tfs, connect=open_one, slots=config.tfs_in_flight)
    await servers.resolve()
    return servers


def server_options(config: Config | None = None) -> list[tuple[str, int]]:
    """List gRPC's options of the server, or, without a configuration, of the port for probes."""
    options = [
        ("grpc.max_receive_message_length", config.max_image_bytes + _MESSAGE_ROOM if config else _HEALTH_MESSAGE),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server that gets half the calls
        # Peers may ping, with and without calls, without being sent GOAWAY too_many_pings (grpc#33661).
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if config and config.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1e3)))
        options.append(("grpc.max_connection_age_grace_ms", int(config.max_deadline_seconds * 1e3)))
    return options


def _build_classifier(
    config: Config, workers: Workers, catalog: Catalog, servers: ModelServers, metrics: Metrics, tracing: Tracing
) -> Classifier:
    predictor = Batching(servers, longest=config.batch_seconds, clock=time.monotonic)
    return Classifier(
        admission=Admission(config, free_capacity=predictor.free_capacity, clock=time.monotonic),
        canary=Canary(config, predictor=predictor, catalog=catalog, metrics=metrics, clock=time.monotonic),
        catalog=catalog,
        photos=Photos(workers, limits=config.limits),
        predictor=predictor,
        metrics=metrics,
        drift=Drift() if config.metrics_listen else None,
        tracing=tracing,
        clock=time.monotonic,
    )


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something in the background while the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _report(servicer: health.aio.HealthServicer, *, ready: bool) -> None:
    """Say whether requests can be answered; without effect once the gateway is stopping."""
    status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", SERVICE):
        await servicer.set(name, status)
    await servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)


async def _drain(
    server: grpc.aio.Server,
    rpcs: Rpcs,
    servicer: health.aio.HealthServicer,
    grace: float,
    stop_now: asyncio.Event,
) -> None:
    """Stop as soon as nothing is in flight, the grace is over, or a second signal came.

    gRPC's own graceful stop is not used: it waits for health watchers, which never end, and calls that arrive too
    late end as CANCELLED, which clients do not retry, instead of UNAVAILABLE.
    """
    await servicer.enter_graceful_shutdown()
    either = [asyncio.create_task(rpcs.finish()), asyncio.create_task(stop_now.wait())]
    await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    for task in either:
        task.cancel()
    await server.stop(None)
    announce("stopped")


async def _start(server: grpc.aio.Server, listen: str, *, credentials: grpc.ServerCredentials | None = None) -> str:
    """Start on HOST:PORT and return it with the port that was got, or unix:PATH.

    Raises:
        ListenError: it is taken or wrong.
    """
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"can't listen on {listen}: is it taken, or not an address of this machine?") from error
    await server.start()
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
