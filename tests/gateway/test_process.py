"""The gateway as a process: what it loads, what it holds, how it starts and stops, what it logs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc.aio
import psutil
import pytest
from click.testing import CliRunner
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dermserve.gateway.cli import gateway
from dermserve.gateway.server import Gateway
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.gateway import gateways
from tests.gateway.gateways import NOT_SERVING, PHOTO, SERVING, World, ask, make_photo, reason_of


class Process:
    """A gateway process, its log read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, object]] = []

    async def until_event(self, event: str) -> dict[str, object]:
        assert self.process.stderr
        while line := await asyncio.wait_for(self.process.stderr.readline(), 100):
            with contextlib.suppress(ValueError):  # gRPC's own lines are not JSON
                self.log.append(json.loads(line))
                if self.log[-1]["event"] == event:
                    return self.log[-1]
        raise AssertionError(f"no {event!r} in {self.log}")

    async def ended(self) -> int:
        with contextlib.suppress(AssertionError):
            await self.until_event("never")
        return await asyncio.wait_for(self.process.wait(), 100)


@contextlib.asynccontextmanager
async def _process(tfs_address: str, *options: str) -> AsyncIterator[tuple[Process, World]]:
    usual = ["--listen", "127.0.0.1:0", "--tfs", tfs_address, "--grace", "600"]  # the last --grace counts
    patient = {f"DERMSERVE_{name.upper()}": str(seconds) for name, seconds in gateways.PATIENT.items()}
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dermserve.cli", "gateway", *usual, *options),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **patient},
    )
    process = Process(started)
    try:
        address = str((await process.until_event("listening"))["address"])
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            world = World(Gateway(address, None), channel, stub)
            await asyncio.wait_for(world.until_health(SERVING), 100)
            yield process, world
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_a_log_whose_reader_is_gone_costs_no_answer(tfs):
    async with tfs.serving() as address, _process(address) as (process, world):
        process.process._transport.get_pipe_transport(2).close()
        for _ in range(3):
            assert (await world.stub.Classify(ask(), timeout=100)).classes
        process.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.process.wait(), 100) == 0


async def test_a_log_whose_reader_is_stuck_costs_no_answer(tfs):
    async with tfs.serving() as address, _process(address) as (process, world):
        stderr = process.process._transport.get_pipe_transport(2)
        stderr.pause_reading()
        for _ in range(500):  # a pipe has room for half of their lines
            assert (await world.stub.ListModels(classifier_pb2.ListModelsRequest(), timeout=100)).models
        stderr.resume_reading()
        process.process.send_signal(signal.SIGTERM)
        await process.until_event("stopped")


@pytest.mark.parametrize("stderr", [">/dev/full", ">&-"])
async def test_a_log_on_a_full_disk_or_a_closed_one_costs_no_answer(tfs, unused_port, stderr):
    async with tfs.serving() as address:
        command = f"exec {sys.executable} -m dermserve.cli gateway --listen 127.0.0.1:{unused_port} --tfs {address}"
        process = await asyncio.create_subprocess_shell(f"{command} 2{stderr}")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_port}") as channel:
                stub = classifier_pb2_grpc.ClassifierStub(channel)
                assert (
                    await stub.ListModels(classifier_pb2.ListModelsRequest(), timeout=100, wait_for_ready=True)
                ).models
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 100) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_accepted_work_finish_and_takes_no_more(tfs, number):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await release.wait()

    async with tfs.serving() as address, _process(address) as (process, world):
        tfs.on_predict = lambda _: hold()
        accepted = asyncio.ensure_future(world.stub.Classify(ask(), timeout=100))
        await asyncio.wait_for(arrived.wait(), 100)
        watching = asyncio.Event()
        stopping = asyncio.create_task(world.until_health(NOT_SERVING, watching=watching))
        await asyncio.wait_for(watching.wait(), 100)
        process.process.send_signal(number)
        await asyncio.wait_for(stopping, 100)
        assert reason_of(await world.refusal(ask())) == "GATEWAY_STOPPING"
        release.set()
        assert (await accepted).classes
        assert await process.ended() == 0
        assert process.log[-1]["event"] == "stopped"


async def test_the_grace_is_a_limit_and_a_second_signal_ends_it_at_once(tfs):
    for options, signals in ((("--grace", "0.2"), 1), (("--grace", "600"), 2)):
        arrived = asyncio.Event()

        async def hold(arrived: asyncio.Event = arrived) -> None:
            arrived.set()
            await asyncio.Event().wait()

        async with tfs.serving() as address, _process(address, *options) as (process, world):
            tfs.on_predict = lambda _, hold=hold: hold()
            accepted = asyncio.ensure_future(world.stub.Classify(ask(), timeout=100))
            await asyncio.wait_for(arrived.wait(), 100)
            process.process.send_signal(signal.SIGTERM)
            if signals == 2:  # two pending signals of one kind would be one
                await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
                process.process.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
            with pytest.raises(grpc.aio.AioRpcError):
                await accepted


async def test_the_process_is_small_and_loads_no_tensorflow(tfs):
    async with tfs.serving() as address, _process(address) as (process, world):
        for _ in range(100):
            await world.stub.Classify(ask(tta=classifier_pb2.TTA_MODE_FULL), timeout=100)
        running = psutil.Process(process.process.pid)
        assert running.memory_info().rss < 120e6
        assert not [entry.path for entry in running.memory_maps() if "tensorflow" in entry.path]


async def test_the_log_is_json_names_each_request_and_holds_nothing_of_the_photo(tfs):
    async with tfs.serving() as address, _process(address) as (process, world):
        await world.stub.Classify(ask(), timeout=100, metadata=(("x-request-id", "good-1"),))
        answered = await process.until_event("request_answered")
        await world.refusal(ask(b"SECRET" + PHOTO), metadata=(("x-request-id", "bad-1"),))
        refused = await process.until_event("request_refused")
    assert (answered["request_id"], answered["code"], answered["model"], answered["version"]) == (
        "good-1",
        "OK",
        "resnet50",
        1,
    )
    assert (refused["request_id"], refused["code"], refused["reason"]) == (
        "bad-1",
        "INVALID_ARGUMENT",
        "UNSUPPORTED_FORMAT",
    )
    assert "SECRET" not in json.dumps(process.log)
    assert max(len(json.dumps(line)) for line in process.log) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_memory_of_a_photo_is_kept_for_the_next():
    script = """
import resource, sys, threading
from dermserve.imaging import decode
photo = sys.stdin.buffer.read()
def faults(photos):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=lambda: [decode(photo, height=224, width=224) for _ in range(photos)])
    thread.start()
    thread.join()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / photos
faults(3)
print(faults(10))
"""
    photo = make_photo("PNG", size=(2000, 1500))  # not in that process, where it would raise the thresholds of glibc
    ended = subprocess.run([sys.executable, "-c", script], input=photo, capture_output=True, timeout=200, check=True)
    assert float(ended.stdout) < 1000  # page faults; 2,900 with thresholds of 8 MB


async def test_a_taken_port_is_an_error_that_names_it(tfs):
    async with tfs.serving() as address:
        taken = ["-m", "dermserve.cli", "gateway", "--listen", address]
        process = await asyncio.create_subprocess_exec(sys.executable, *taken, stderr=asyncio.subprocess.PIPE)
        _, text = await process.communicate()
        assert process.returncode == 1
        assert f"can't listen on {address}" in text.decode()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DERMSERVE_LISTN": "x"}, "did you mean DERMSERVE_LISTEN?"),
        ({"DERMSERVE_GRACE_SECONDS": "soon"}, "grace_seconds"),
        ({"DERMSERVE_MODELS": ","}, "models"),
        ({"DERMSERVE_DECODERS": "0"}, "decoders"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(environment, words):
    refused = CliRunner().invoke(gateway, ["--listen", "127.0.0.1:0"], env=environment)
    assert refused.exit_code == 2
    assert words in refused.output


@pytest.mark.parametrize("on", [False, True])
async def test_reflection_is_there_only_when_asked_for(running, on):
    async with running(reflection=on) as world:
        listing = reflection_pb2_grpc.ServerReflectionStub(world.channel).ServerReflectionInfo
        if not on:
            assert await listing(timeout=100).code() is grpc.StatusCode.UNIMPLEMENTED
            return
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        response = await anext(aiter(listing(requests, timeout=100)))
        names = [service.name for service in response.list_services_response.service]
        assert "dermserve.v1.Classifier" in names
