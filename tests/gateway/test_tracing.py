"""Traces: spans of every stage reach a real OTLP collector, and nothing of it is there when nobody asks."""

import asyncio
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from dermserve.gateway.server import Gateway
from dermserve.gateway.tracing import is_wanted
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.gateway.gateways import SERVING, World, ask

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLASSIFY, PREDICT = "/dermserve.v1.Classifier/Classify", "/tensorflow.serving.PredictionService/Predict"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "vendor=1"))
installed = pytest.mark.skipif(importlib.util.find_spec("opentelemetry") is None, reason="needs the extra tracing")


class Collector:
    """An OTLP collector over gRPC that keeps spans by name."""

    def __init__(self) -> None:
        self.spans: list[object] = []
        self.resources: list[dict[str, str]] = []
        self._arrived = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async def export(request: object, _context: object) -> object:
            for resource in request.resource_spans:
                facts = {fact.key: fact.value.string_value for fact in resource.resource.attributes}
                self.resources.append(facts)
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self._arrived.set()
            return trace_service_pb2.ExportTraceServiceResponse()

        servicer = trace_service_pb2_grpc.TraceServiceServicer()
        servicer.Export = export
        server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop(None)

    async def until(self, name: str, count: int = 1) -> list[object]:
        """Wait for so many spans of a name."""
        async with asyncio.timeout(100):
            while len(found := [span for span in self.spans if span.name == name]) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return found


@contextlib.asynccontextmanager
async def _process(
    tfs_address: str, *, before: str = "", **environment: str
) -> AsyncIterator[tuple[World, list[dict]]]:
    script = f"{before}\nfrom dermserve.gateway.cli import gateway\ngateway(prog_name='gateway')"
    command = [sys.executable, "-c", script, "--listen", "127.0.0.1:0", "--tfs", tfs_address]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environment}
    )
    log: list[dict] = []
    try:
        assert process.stderr
        while not log or log[-1].get("event") != "listening":
            line = await asyncio.wait_for(process.stderr.readline(), 100)
            assert line, log
            log.append(json.loads(line))
        address = log[-1]["address"]
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            world = World(Gateway(address, None), channel, classifier_pb2_grpc.ClassifierStub(channel))
            await asyncio.wait_for(world.until_health(SERVING), 100)
            yield world, log
        process.terminate()
        rest = (await asyncio.wait_for(process.stderr.read(), 100)).decode().splitlines()
        log += [json.loads(line) for line in rest if line.startswith("{")]
        assert await asyncio.wait_for(process.wait(), 100) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@installed
async def test_spans_of_each_stage_belong_to_the_callers_trace_and_go_on_to_the_model_server(tfs):
    collector = Collector()
    async with tfs.serving() as address, collector.serving() as endpoint:
        traced = _process(address, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="50")
        async with traced as (world, log):
            await world.stub.Classify(ask(), timeout=100, metadata=TRACEPARENT)
            (request,) = await collector.until(CLASSIFY)
    traced = [span for span in collector.spans if span.trace_id.hex() == TRACE]  # cards are read in traces of their own
    spans = {span.name: span for span in traced}
    assert {CLASSIFY, "admit", "decode", "predict", PREDICT, "reduce"} <= set(spans)
    assert request.parent_span_id.hex() == SPAN
    assert {spans[stage].parent_span_id for stage in ("admit", "decode", "predict", "reduce")} == {request.span_id}
    assert spans[PREDICT].parent_span_id == spans["predict"].span_id
    sent = tfs.metadata[-1]
    assert sent["traceparent"] == f"00-{TRACE}-{spans[PREDICT].span_id.hex()}-01"
    assert sent["tracestate"] == "vendor=1"
    assert collector.resources[0]["service.name"] == "dermserve-gateway"
    assert TRACE in {line.get("trace_id") for line in log}


@installed
async def test_a_request_without_a_trace_gets_one_that_its_log_line_names(tfs):
    collector = Collector()
    async with tfs.serving() as address, collector.serving() as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "mine"}
        async with _process(address, **environment) as (world, log):
            await world.refusal(ask(b"SECRET that is no photo"))
            asked = (ask(), ask(model="nobody"))
            photos = [classifier_pb2.ClassifyStreamRequest(id=str(n), request=each) for n, each in enumerate(asked)]
            answers = [answer async for answer in world.stub.ClassifyStream(iter(photos), timeout=100)]
            assert sorted(answer.error.code for answer in answers) == [0, 5]
    (refused,) = await collector.until(CLASSIFY)  # the last ones are sent while it stops
    assert next(line["trace_id"] for line in log if line["event"] == "request_refused") == refused.trace_id.hex()
    assert (refused.status.code, refused.status.message) == (2, "INVALID_ARGUMENT")
    stream = await collector.until("photo", 2)
    assert len({span.trace_id for span in stream}) == 1
    assert {span.status.message for span in stream} == {"", "NOT_FOUND"}
    assert not [span for span in collector.spans if "SECRET" in str(span)]
    assert collector.resources[0]["service.name"] == "mine"


@installed
async def test_a_collector_that_is_away_costs_no_request_and_no_stop(tfs, unused_port):
    async with tfs.serving() as address:
        away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{unused_port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        async with _process(address, OTEL_BSP_SCHEDULE_DELAY="50", **away) as (world, _):
            for _ in range(3):
                assert (await world.stub.Classify(ask(), timeout=100)).classes


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_of_opentelemetry_asks_for_traces(environment, wanted):
    assert is_wanted(environment) == wanted


def test_when_nobody_asks_for_traces_nothing_of_opentelemetry_is_imported():
    script = """
import asyncio, sys
from dermserve.gateway.config import Config
from dermserve.gateway.server import lifespan
async def main():
    async with lifespan(Config(listen="127.0.0.1:0", tfs="127.0.0.1:1")):
        print([name for name in sys.modules if name.startswith("opentelemetry")])
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert "[]" in ended.stdout.splitlines()  # beside log lines


async def test_without_the_extra_the_gateway_says_so_and_works(tfs):
    async with tfs.serving() as address:
        gone = "import sys; sys.modules['opentelemetry'] = None"
        traced = _process(address, before=gone, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
        async with traced as (world, log):
            assert (await world.stub.Classify(ask(), timeout=100)).classes
    assert [line["remedy"] for line in log if line["event"] == "tracing_not_installed"] == [
        "pip install '.[tracing]' in a clone"
    ]
