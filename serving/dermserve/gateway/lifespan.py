"""Everything of the gateway that has state, built, started and stopped in one place and one order."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.gateway.admission import Admission
from dermserve.gateway.backends import Backend, Backends
from dermserve.gateway.batching import Batching
from dermserve.gateway.calls import Allowance, Calls
from dermserve.gateway.cards import Cards
from dermserve.gateway.catalog import Catalog, Pace
from dermserve.gateway.config import Config
from dermserve.gateway.decode import ThreadedDecoder
from dermserve.gateway.drift import Drift
from dermserve.gateway.gate import Gate
from dermserve.gateway.handlers import add_classifier
from dermserve.gateway.health import SERVICE, Health
from dermserve.gateway.logs import announce
from dermserve.gateway.metrics import Metrics, serving_metrics
from dermserve.gateway.pipeline import Pipeline
from dermserve.gateway.ports import bind, build_server, read_credentials
from dermserve.gateway.reflection import add_reflection
from dermserve.gateway.service import ClassifierService
from dermserve.gateway.snapshot import Snapshot
from dermserve.gateway.tfserving import TfServing, open_channel
from dermserve.gateway.tracing import Tracing, open_tracing
from dermserve.gateway.workers import Workers


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    address: str
    """HOST:PORT it listens on, the port resolved."""
    hurry: asyncio.Event
    """Set it to stop without waiting for requests in flight."""
    metrics_address: str | None = None
    """HOST:PORT of the metrics, if they are served."""


@contextlib.asynccontextmanager
async def lifespan(config: Config) -> AsyncIterator[Gateway]:
    """Run the gateway while the block lasts.

    On the way out: health says NOT_SERVING, no RPC is accepted, those in flight have the grace to finish, then
    the polling stops, the channel closes and the threads end.

    Raises:
        ListenError: an address is taken or wrong.
        OSError: a certificate can't be read.
    """
    clock, health, hurry = time.monotonic, Health(), asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        workers = Workers(config.decoders, stuck_after=config.decoder_stuck_seconds, clock=clock)
        stack.callback(workers.close)
        await _start_health(config, health, stack)
        tracing = open_tracing(os.environ)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        backends = Backends(
            [await _open_backend(config, address, tracing, stack) for address in config.tfs], clock=clock
        )
        catalog = _build_catalog(config, backends)
        await stack.enter_async_context(_running(catalog, health))
        metrics = Metrics(config.models)
        pipeline = _build_pipeline(config, workers, catalog, backends, metrics, tracing)
        metrics_address = await _start_metrics(config, metrics, pipeline, backends, workers, stack)
        allowance = Allowance(default=config.default_deadline_seconds, cap=config.max_deadline_seconds)
        calls = Calls(allowance, metrics=metrics, tracing=tracing, clock=clock)
        service = ClassifierService(pipeline, calls=calls, stream_at_once=config.stream_at_once)
        server = _build_server(config, service, health)
        address = bind(server, config.listen, credentials=read_credentials(config))
        await server.start()
        stack.push_async_callback(_drain, server, calls, health, config.grace_seconds, hurry)
        announce("listening", address=address, tfs=config.tfs, models=config.models)
        yield Gateway(address, hurry, metrics_address)


async def _open_backend(config: Config, address: str, tracing: Tracing, stack: contextlib.AsyncExitStack) -> Backend:
    channel = await stack.enter_async_context(open_channel(address, tls=config.tfs_tls))
    gate = Gate(at_once=config.tfs_in_flight, queue=None, clock=time.monotonic)
    return Backend(address, TfServing(channel, address=address, tracing=tracing), gate)


def _build_catalog(config: Config, server: Backends) -> Catalog:
    pace = Pace(steady=config.poll_seconds, waiting=config.poll_waiting_seconds, patience=config.poll_timeout_seconds)
    cards = Cards(server, patience=config.poll_timeout_seconds, clock=time.monotonic)
    return Catalog(server, cards, models=config.models, labels=config.labels, pace=pace, clock=time.monotonic)


def _build_pipeline(
    config: Config, workers: Workers, catalog: Catalog, backends: Backends, metrics: Metrics, tracing: Tracing
) -> Pipeline:
    batching = Batching(backends, longest=config.batch_seconds)
    return Pipeline(
        admission=Admission(
            config.models,
            unary=config.unary,
            stream=config.stream,
            spare=backends.spare,
            further=batching.further,
            clock=time.monotonic,
        ),
        canary_shares=config.canary_shares,
        catalog=catalog,
        decoder=ThreadedDecoder(workers, limits=config.limits),
        predictor=batching,
        metrics=metrics,
        drift=Drift() if config.metrics_listen else None,
        tracing=tracing,
        clock=time.monotonic,
    )


async def _start_metrics(
    config: Config,
    metrics: Metrics,
    pipeline: Pipeline,
    backends: Backends,
    workers: Workers,
    stack: contextlib.AsyncExitStack,
) -> str | None:
    """Serve the metrics until everything else has stopped; returns their address."""
    if config.metrics_listen is None:
        return None
    snapshot = Snapshot(
        admission=pipeline.admission,
        backends=backends,
        catalog=pipeline.catalog,
        workers=workers,
        drift=pipeline.drift,
        certificates=config.certificates,
    )
    metrics.registry.register(snapshot)
    address = await stack.enter_async_context(serving_metrics(metrics.registry, config.metrics_listen))
    announce("metrics listening", address=address)
    return address


@contextlib.asynccontextmanager
async def _running(catalog: Catalog, health: Health) -> AsyncIterator[None]:
    """Keep the catalog and health up to date while the block lasts."""
    await health.report(False)
    task = asyncio.create_task(catalog.follow(health.report))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _build_server(config: Config, service: ClassifierService, health: Health) -> grpc.aio.Server:
    server = build_server(config)
    add_classifier(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    if config.reflection:
        add_reflection((SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server)
    return server


async def _start_health(config: Config, health: Health, stack: contextlib.AsyncExitStack) -> None:
    """Serve health alone on a port of its own, to the very end, so that probes see NOT_SERVING while draining."""
    if config.health_listen is None:
        return
    server = build_server(config)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    address = bind(server, config.health_listen)
    await server.start()
    stack.push_async_callback(server.stop, None)
    announce("health listening", address=address)


async def _drain(server: grpc.aio.Server, calls: Calls, health: Health, grace: float, hurry: asyncio.Event) -> None:
    """Stop as soon as nothing is in flight, the grace is over, or there is a hurry.

    gRPC's own graceful stop is not used: it would wait for health watchers, who never leave, and calls that reach it
    too late end CANCELLED, which nobody tries again, instead of UNAVAILABLE.
    """
    await health.stop()
    either = [asyncio.create_task(calls.finish()), asyncio.create_task(hurry.wait())]
    await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    for task in either:
        task.cancel()
    await server.stop(None)
    announce("stopped")
