"""Faults that were found in the gateway, each with its kind: none comes back."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import signal
import sys

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from dermserve.gateway import classify
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.tfserving import TfServing
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.certificates import make_certificate
from tests.gateway import gateways
from tests.gateway.fake_tfserving import Version, make_card
from tests.gateway.gateways import NOT_SERVING, PHOTO, SERVING, World, ask, reason_of, status_of
from tests.gateway.test_process import _process

FULL, ADAPTIVE = classifier_pb2.TTA_MODE_FULL, classifier_pb2.TTA_MODE_ADAPTIVE


async def test_the_bytes_of_photos_that_wait_are_bounded_and_who_is_beyond_is_told_when_to_retry(running, tfs):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    large = PHOTO + bytes(300_000)
    async with running(max_held_bytes=1_000_000) as world:
        tfs.on_predict = hold
        held = [asyncio.ensure_future(world.stub.Classify(ask(large), timeout=100)) for _ in range(3)]
        await asyncio.wait_for(arrived.wait(), 100)
        for model in ("resnet50", "mobilenet_v3_small"):
            refused = await world.refusal(ask(large, model=model))
            assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            retry = error_details_pb2.RetryInfo()
            assert status_of(refused).details[1].Unpack(retry)
        stream = world.stub.ClassifyStream(iter([classifier_pb2.ClassifyStreamRequest(id="a", request=ask(large))]))
        assert [reason_of(answer.error) async for answer in stream] == ["OVERLOADED"]
        release.set()
        assert all(answer.classes for answer in await asyncio.gather(*held))
        assert (await world.stub.Classify(ask(large), timeout=100)).classes


async def test_a_photo_larger_than_the_bound_is_answered_when_no_other_is_held(running):
    async with running(max_held_bytes=10) as world:
        for _ in range(2):
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_an_exception_in_a_poll_is_logged_and_the_catalog_goes_on(running, tfs, monkeypatch):
    async with running() as world:
        with capture_logs() as log, monkeypatch.context() as patched:

            async def broken(*_: object, **__: object) -> None:
                raise RuntimeError("a bug")

            patched.setattr(TfServing, "versions", broken)
            await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
        await asyncio.wait_for(world.until_health(SERVING), 100)
        assert (await world.stub.Classify(ask(), timeout=100)).classes
    assert {entry["event"] for entry in log if entry["log_level"] == "error"} == {"catalog_poll_failed"}


@pytest.mark.parametrize(
    "fault",
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"),
        (grpc.StatusCode.UNAVAILABLE, "gone"),
        (grpc.StatusCode.INTERNAL, "oops"),
        (grpc.StatusCode.NOT_FOUND, "Servable not found"),
        "hang",
        "nonsense",
        "another version that hangs",
    ],
    ids=str,
)
async def test_adaptive_answers_with_what_it_has_when_a_later_stage_fails(running, tfs, fault, monkeypatch):
    # Two seconds for a later stage, and whatever a busy machine takes for the first, and to answer.
    monkeypatch.setattr(classify, "_RESERVE", math.inf)
    monkeypatch.setattr(classify, "_RESERVE_SHARE", 0.98)
    tfs.models["resnet50"][1] = Version(make_card(min_confidence=0.1, adaptive_margin=1.0))

    async def second(_: object) -> None:
        if isinstance(fault, tuple):
            tfs.faults["Predict"] = fault  # of the next one
        elif fault == "hang" and len(tfs.predicts) > 1:
            await asyncio.Event().wait()
        elif fault == "another version that hangs":
            if 2 in tfs.models["resnet50"]:
                await asyncio.Event().wait()
            asyncio.get_running_loop().call_soon(tfs.models.update, {"resnet50": {2: Version(make_card())}})

    def spoil(response: object) -> None:
        if fault == "nonsense" and len(tfs.predicts) > 1:
            response.outputs["probabilities"].float_val.append(1.0)

    async with running() as world:
        tfs.on_predict, tfs.mend = second, spoil
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert (answer.views_asked, answer.views_used) == (10, 1)


async def test_many_requests_for_a_label_that_is_gone_share_the_looks_at_the_versions(running, tfs, monkeypatch):
    tfs.labels["resnet50", "stable"] = 1
    polls, all_wait, poll = itertools.count(1), asyncio.Event(), Catalog.poll

    async def counted(catalog: Catalog) -> None:
        if next(polls) == 32:
            all_wait.set()
        await poll(catalog)

    versions = TfServing.versions

    async def held(*given: object, **options: object) -> object:
        await all_wait.wait()
        return await versions(*given, **options)

    async with running(poll_seconds=600) as world:
        del tfs.labels["resnet50", "stable"]
        while not tfs.looks.empty():
            tfs.looks.get_nowait()
        monkeypatch.setattr(Catalog, "poll", counted)
        monkeypatch.setattr(TfServing, "versions", held)
        refusals = await asyncio.gather(*(world.refusal(ask(label="stable")) for _ in range(32)))
        assert {reason_of(error) for error in refusals} == {"LABEL_NOT_FOUND"}
        assert tfs.looks.qsize() == 2  # one at each model


async def test_a_stream_answers_what_was_read_before_sigterm_and_says_unavailable_of_the_rest(tfs):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    async with tfs.serving() as address, _process(address) as (process, world):
        tfs.on_predict = hold
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(classifier_pb2.ClassifyStreamRequest(id="before", request=ask()))
        await asyncio.wait_for(arrived.wait(), 100)
        process.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
        await stream.write(classifier_pb2.ClassifyStreamRequest(id="after", request=ask()))
        after = await stream.read()
        assert (after.id, reason_of(after.error)) == ("after", "GATEWAY_STOPPING")
        release.set()
        before = await stream.read()
        assert (before.id, len(before.response.classes)) == ("before", 7)
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(process.ended(), 100) == 0


async def test_an_idle_stream_does_not_hold_up_the_stop(tfs):
    async with tfs.serving() as address, _process(address, "--grace", "600") as (process, world):
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(classifier_pb2.ClassifyStreamRequest(id="a", request=ask()))
        assert (await stream.read()).id == "a"
        process.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.ended(), 100) == 0
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_peer_may_ping_both_ports_without_calls_and_is_not_sent_goaway(running, unused_port):
    """At one ping a second, so as not to wait for minutes; Envoy pings every 30 s."""
    options = [
        ("grpc.keepalive_time_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]

    async def ping(address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            await check(health_pb2.HealthCheckRequest(), timeout=100)
            with pytest.raises(TimeoutError):  # it stays READY over four pings; the third used to be one too many
                await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 4.5)

    probes = f"127.0.0.1:{unused_port}"
    async with running(health_listen=probes) as world:
        await asyncio.gather(ping(world.gateway.address), ping(probes))


async def test_the_health_port_takes_no_large_messages(running, unused_port):
    probes = f"127.0.0.1:{unused_port}"
    async with running(health_listen=probes), grpc.aio.insecure_channel(probes) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(bytes(100_000), timeout=100)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_unix_socket_is_announced_as_it_is(tfs, tmp_path):
    async with tfs.serving() as address:
        listen = f"unix:{tmp_path}/gateway.sock"
        async with gateways.running(tfs_address=address, listen=listen, health_listen=f"unix:{tmp_path}/h") as world:
            assert world.gateway.address == listen
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_cancelled_call_leaves_a_log_line(running, tfs):
    arrived = asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with running() as world:
        tfs.on_predict = hold
        with capture_logs() as log:
            call = world.stub.Classify(ask(), timeout=100, metadata=(("x-request-id", "gone"),))
            sending = asyncio.ensure_future(call)
            await asyncio.wait_for(arrived.wait(), 100)
            call.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            async with asyncio.timeout(100):
                while not log:  # noqa: ASYNC110  # the log has no event to wait for
                    await asyncio.sleep(0.01)
    assert [(entry["event"], entry["request_id"], entry["code"]) for entry in log] == [
        ("request_cancelled", "gone", "CANCELLED")
    ]


async def test_a_failed_handshake_writes_nothing_between_the_json_lines(tfs, tmp_path):
    certificate = make_certificate(tmp_path, "server")
    arguments = ["-m", "dermserve.cli", "gateway", "--listen", "localhost:0", "--tfs", "127.0.0.1:1"]
    tls = {"DERMSERVE_TLS_CERTIFICATE": str(certificate), "DERMSERVE_TLS_KEY": str(certificate.with_suffix(".key"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.PIPE, env={**os.environ, **tls}
    )
    try:
        line = await asyncio.wait_for(process.stderr.readline(), 100)
        while json.loads(line)["event"] != "listening":
            line = await asyncio.wait_for(process.stderr.readline(), 100)
        host, _, port = json.loads(line)["address"].rpartition(":")
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
        process.terminate()
        rest = await asyncio.wait_for(process.stderr.read(), 100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert not [text for text in rest.decode().splitlines() if not text.startswith("{")]


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_a_proxy_in_the_environment_is_not_used_for_model_servers(tfs, monkeypatch, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with tfs.serving() as address:
        config = {"listen": "127.0.0.1:0", "tfs": address, "poll_seconds": 0.1}
        async with gateways.lifespan(gateways.Config(**config)) as gateway:
            options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
                world = World(gateway, channel, classifier_pb2_grpc.ClassifierStub(channel))
                await asyncio.wait_for(world.until_health(SERVING), 100)
                assert (await world.stub.Classify(ask(), timeout=100)).classes


@pytest.mark.parametrize(
    ("raised", "code", "reason"),
    [
        (MemoryError(), grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY"),
        (ZeroDivisionError("a bug"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_what_is_not_the_photos_fault_is_not_called_a_damaged_file(running, monkeypatch, raised, code, reason):
    def fail(*_: object, **__: object) -> None:
        raise raised

    async with running() as world:
        with capture_logs() as log, monkeypatch.context() as patched:
            patched.setattr(classify, "decode", fail)
            refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (code, reason)
        assert "error" in {entry["log_level"] for entry in log}
        assert (await world.stub.Classify(ask(), timeout=100)).classes
