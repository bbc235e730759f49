"""Faults under load, against two real model servers, a gateway, and a proxy that can be slow or lie.

The gateway has three addresses: each of the two, and one that leads to the second by way of the proxy. Every answer is
checked. A clean error is one of the API's own, with its reason. Faults that leave a sound model server must lose
nothing. At the end health is SERVING, requests are answered, and the gateway has counted as many as were sent.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import numpy as np
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from dermserve.local.child import free_port
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.drawing import draw_lesion

MODEL = "mobilenet_v3_small"
HUNG = 200.0
"""Seconds after which a request counts as hung; the gateway gives none more than LIMIT."""
LIMIT = 60.0
_PAUSE = 0.01
"""Seconds before a caller asks again: without, the callers alone take a core."""
_START = 600.0
"""Seconds a model server may take to load; importing TensorFlow takes minutes on a busy machine."""
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_UNINTENDED = frozenset({"INTERNAL", "UNKNOWN"})


class Server:
    """A model server's process, always on the same port."""

    def __init__(self, config: pathlib.Path, log: pathlib.Path) -> None:
        self._config = config
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and return once it has loaded its model."""
        flags = [f"--port={self.port}", f"--model_config_file={self._config}", "--file_system_poll_wait_seconds=1"]
        flags += ["--tensorflow_intra_op_parallelism=1"]
        command = [sys.executable, "-m", "dermserve.modelserver", *flags]
        environment = os.environ | {"MALLOC_ARENA_MAX": "1", "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: ASYNC220
        async with asyncio.timeout(_START):
            while await self.versions() == []:  # another process: nothing to await
                assert self._process.poll() is None, f"the model server ended; see {self._log}"
                await asyncio.sleep(0.2)

    async def versions(self) -> list[int]:
        """Return the versions that are available; none when it can't be asked."""
        async with grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            look = channel.unary_unary(
                _STATUS,
                request_serializer=serving_pb2.GetModelStatusRequest.SerializeToString,
                response_deserializer=serving_pb2.GetModelStatusResponse.FromString,
            )
            spec = serving_pb2.ModelSpec(name=MODEL)
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await look(serving_pb2.GetModelStatusRequest(model_spec=spec), timeout=2)
                available = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
                return sorted(seen.version for seen in answer.model_version_status if seen.state == available)
        return []

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self) -> None:
        """Kill it, and return once it has ended."""
        assert self._process is not None
        self.send(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait, 60)

    def clean_up(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Proxy:
    """Passes calls on, and while it is told to, late or with the answers changed."""

    def __init__(self, target: str) -> None:
        self.delay = 0.0
        self.lie: Callable[[serving_pb2.PredictResponse], None] | None = None
        self._target = target

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve while the block lasts; gives the address."""
        self._channel = grpc.aio.insecure_channel(self._target, options=_UNLIMITED)
        server = grpc.aio.server(options=_UNLIMITED)
        server.add_generic_rpc_handlers((_Anything(self._relay),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
            await self._channel.close()

    async def _relay(self, method: str, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        predicting = method.endswith("/Predict") and b"describe" not in request[:200]
        if predicting:
            await asyncio.sleep(self.delay)
        try:
            answer: bytes = await self._channel.unary_unary(method)(request, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        if predicting and self.lie is not None:
            response = serving_pb2.PredictResponse.FromString(answer)
            self.lie(response)
            answer = response.SerializeToString()
        return answer


class _Anything(grpc.GenericRpcHandler):
    def __init__(self, relay: Callable[..., Awaitable[bytes]]) -> None:
        self._relay = relay

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        method = details.method

        async def handle(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
            return await self._relay(method, request, context)

        return grpc.unary_unary_rpc_method_handler(handle)  # type: ignore[arg-type]


def _nan(response: serving_pb2.PredictResponse) -> None:
    del response.outputs["probabilities"].float_val[:]
    response.outputs["probabilities"].tensor_content = np.full(3, np.nan, np.float32).tobytes()


def _unnormalised(response: serving_pb2.PredictResponse) -> None:
    del response.outputs["probabilities"].float_val[:]
    response.outputs["probabilities"].tensor_content = np.full(3, 0.9, np.float32).tobytes()


def _other_classes(response: serving_pb2.PredictResponse) -> None:
    tensor = response.outputs["probabilities"]
    del tensor.float_val[:]
    tensor.tensor_shape.dim[-1].size = 5
    tensor.tensor_content = np.full(5, 0.2, np.float32).tobytes()


def _nothing(response: serving_pb2.PredictResponse) -> None:
    response.outputs.clear()


class Load:
    """Callers that ask again after a hundredth of a second, and what became of each request."""

    def __init__(self, stub: classifier_pb2_grpc.ClassifierStub, photo: bytes) -> None:
        self.sent = 0
        self.ended: Counter[str] = Counter()
        self.unsound: list[str] = []
        self.slowest = 0.0
        self._stub = stub
        self._photo = photo
        self._stop = asyncio.Event()

    async def run(self, callers: int, during: Callable[[], Awaitable[None]]) -> None:
        """Load the gateway while something happens, and return when every request has ended."""
        asking = [asyncio.create_task(self._call(tta=caller % 3 + 1)) for caller in range(callers)]
        try:
            await during()
            before = self.ended["answered"]
            async with asyncio.timeout(HUNG):
                while self.ended["answered"] == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            self._stop.set()
            await asyncio.gather(*asking)

    async def _call(self, tta: int) -> None:
        selector = classifier_pb2.ModelSelector(name=MODEL)
        request = classifier_pb2.ClassifyRequest(model=selector, image=self._photo, tta=tta)
        while not self._stop.is_set():
            self.sent += 1
            started = time.perf_counter()
            try:
                self._check(await self._stub.Classify(request, timeout=HUNG))
            except grpc.aio.AioRpcError as error:
                reason = _reason(error)
                self.ended[reason or f"unclean {error.code().name}"] += 1
                if reason is None or reason in _UNINTENDED:
                    self.unsound.append(f"{error.code().name} {error.details()}")
            self.slowest = max(self.slowest, time.perf_counter() - started)
            await asyncio.sleep(_PAUSE)

    def _check(self, answer: classifier_pb2.ClassifyResponse) -> None:
        self.ended["answered"] += 1
        scores = [score.probability for score in answer.classes]
        if len(scores) != 3 or not np.isfinite(scores).all() or abs(sum(scores) - 1) > 1e-3 or not answer.version:
            self.unsound.append(f"an answer that is none: {answer}")


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return info.reason if status and status.details and status.details[0].Unpack(info) else None


@dataclasses.dataclass
class World:
    """Everything that runs."""

    first: Server
    second: Server
    proxy: Proxy
    store: pathlib.Path
    seconds: float

    async def nothing(self) -> None:
        """No fault."""
        await asyncio.sleep(self.seconds)

    async def kill(self) -> None:
        """Kill -9 of one model server, then its restart."""
        await self.first.end()
        await asyncio.sleep(self.seconds)
        await self.first.start()
        await asyncio.sleep(self.seconds / 2)

    async def freeze(self) -> None:
        """SIGSTOP of one model server, then SIGCONT."""
        self.first.send(signal.SIGSTOP)
        await asyncio.sleep(self.seconds)
        self.first.send(signal.SIGCONT)
        await asyncio.sleep(self.seconds / 2)

    async def blackout(self) -> None:
        """Kill -9 of both at once, then their restart."""
        await asyncio.gather(self.first.end(), self.second.end())
        await asyncio.sleep(self.seconds)
        await asyncio.gather(self.first.start(), self.second.start())
        await asyncio.sleep(self.seconds / 2)

    async def slow(self) -> None:
        """One address takes three seconds longer."""
        self.proxy.delay = 3.0
        await asyncio.sleep(self.seconds)
        self.proxy.delay = 0.0
        await asyncio.sleep(self.seconds / 2)

    async def wrong(self) -> None:
        """One address answers NaN, sums that are not 1, another number of classes, nothing."""
        for lie in (_nan, _unnormalised, _other_classes, _nothing):
            self.proxy.lie = lie
            await asyncio.sleep(self.seconds / 4)
        self.proxy.lie = None

    async def swap(self) -> None:
        """A new version appears, the old one goes, and comes back."""
        folder = self.store / MODEL
        shutil.copytree(folder / "1", self.store / "next")
        (self.store / "next").rename(folder / "2")
        await self._until([2])
        await asyncio.sleep(self.seconds / 2)
        (folder / "1").rename(self.store / "old")
        await asyncio.sleep(self.seconds / 2)
        (self.store / "old").rename(folder / "1")
        shutil.rmtree(folder / "2")
        await self._until([1])
        await asyncio.sleep(self.seconds / 2)

    async def _until(self, versions: list[int]) -> None:
        async with asyncio.timeout(_START):
            for server in (self.first, self.second):
                while await server.versions() != versions:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)


LOSSLESS = ("nothing", "kill", "freeze", "slow", "swap")
"""Faults that leave a sound model server, so that nothing may be lost."""
FAULTS = (*LOSSLESS, "wrong", "blackout")
_SUFFERING = {"kill": 0, "freeze": 0, "slow": 2}
"""Which of the three addresses such a fault is about."""
_TIMES = 3
"""That a fault is let happen at most, where the machine stalls as well: a sound address was ejected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a fault did."""

    fault: str
    sent: int
    answered: int
    errors: dict[str, int]
    """By reason."""
    slowest_seconds: float
    failures: list[str]
    """Why it does not hold; empty when it does."""


def _judge(fault: str, load: Load) -> Result:
    errors = {reason: count for reason, count in load.ended.items() if reason != "answered"}
    failures = sorted(set(load.unsound))[:5]
    if load.sent != load.ended.total():
        failures.append(f"{load.sent} sent, {load.ended.total()} ended")
    if not load.ended["answered"]:
        failures.append("nothing was answered")
    if fault in LOSSLESS and errors:
        failures.append(f"lost {sum(errors.values())} requests")
    if fault == "wrong" and set(errors) - {"INVALID_MODEL_OUTPUT"}:
        failures.append(f"errors that are not about the answer: {sorted(errors)}")
    return Result(fault, load.sent, load.ended["answered"], errors, round(load.slowest, 2), failures)


@contextlib.asynccontextmanager
async def _gateway(addresses: list[str], log: pathlib.Path) -> AsyncIterator[tuple[str, str]]:
    """Run a gateway; gives its address and its metrics'."""
    address, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [sys.executable, "-m", "dermserve.cli", "gateway", f"--listen={address}", f"--metrics-listen={metrics}"]
    command += [f"--model={MODEL}", *(f"--tfs={server}" for server in addresses)]
    environment = os.environ | {"DERMSERVE_MAX_DEADLINE_SECONDS": str(LIMIT), "DERMSERVE_POLL_SECONDS": "0.5"}
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, env=environment) as process:  # noqa: ASYNC220
        try:
            yield address, metrics
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, HUNG)


async def _serving(channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    async for update in watch:
        if update.status == health_pb2.HealthCheckResponse.SERVING:
            watch.cancel()
            return


async def _alive(channel: grpc.aio.Channel, photo: bytes, *, sent: int, metrics: str) -> list[str]:
    """Prove that it lives; return what speaks against it."""
    failures = []
    try:
        await asyncio.wait_for(_serving(channel), HUNG)
    except (TimeoutError, grpc.aio.AioRpcError):
        failures.append("health is not SERVING after the last fault")
    load = Load(classifier_pb2_grpc.ClassifierStub(channel), photo)
    await load.run(1, lambda: asyncio.sleep(2))
    failures += [f"afterwards: {reason}, {count} times" for reason, count in load.ended.items() if reason != "answered"]
    counted = {}
    for _ in range(50):  # an answer leaves a moment before it is counted
        text = (await asyncio.to_thread(urllib.request.urlopen, f"http://{metrics}/metrics")).read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        names = ("requests_total", "requests_in_progress")
        counted = {name: sum(s.value for s in samples if s.name == f"dermserve_gateway_{name}") for name in names}
        if list(counted.values()) == [sent + load.sent, 0]:
            return failures
        await asyncio.sleep(0.1)
    return [*failures, f"{sent + load.sent} requests were sent, but the gateway says {counted}"]


async def let_happen(
    store: pathlib.Path, folder: pathlib.Path, faults: tuple[str, ...], *, seconds: float, callers: int = 4
) -> tuple[list[Result], list[str]]:
    """Let faults happen under load, one after the other; give what each did, and what speaks against a live gateway."""
    photo, results = draw_lesion(), []
    async with contextlib.AsyncExitStack() as stack:
        shutil.copytree(store / MODEL / "1", folder / "store" / MODEL / "1")
        config = folder / "models.config"
        entry = f'config {{ name: "{MODEL}" base_path: "{folder}/store/{MODEL}" model_platform: "tensorflow" }}'
        config.write_text(f"model_config_list {{ {entry} }}\n")
        servers = [Server(config, folder / f"{name}.log") for name in ("first", "second")]
        for server in servers:
            server.port = free_port()
            stack.callback(server.clean_up)
        await asyncio.gather(*(server.start() for server in servers))
        proxy = Proxy(servers[1].address)
        lying = await stack.enter_async_context(proxy.serving())
        addresses = [servers[0].address, servers[1].address, lying]
        address, metrics = await stack.enter_async_context(_gateway(addresses, folder / "gateway.log"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        await asyncio.wait_for(_serving(channel), HUNG)
        world, sent = World(servers[0], servers[1], proxy, folder / "store", seconds), 0
        for fault in faults:
            suffering = addresses[_SUFFERING[fault]] if fault in _SUFFERING else None
            for _ in range(_TIMES):
                before = len(_ejected(folder / "gateway.log"))
                load = Load(classifier_pb2_grpc.ClassifierStub(channel), photo)
                await load.run(callers, getattr(world, fault))
                await asyncio.wait_for(_serving(channel), HUNG)
                sent, result = sent + load.sent, _judge(fault, load)
                sound = set(_ejected(folder / "gateway.log")[before:]) - {suffering}
                if not (result.failures and sound and fault in LOSSLESS):
                    break
            results.append(result)
        return results, await _alive(channel, photo, sent=sent, metrics=metrics)


def _ejected(log: pathlib.Path) -> list[str]:
    """Return the addresses that the gateway has ejected, each time."""
    lines = [json.loads(line) for line in log.read_text("utf-8").split("\n")[:-1] if line.startswith("{")]
    return [line["address"] for line in lines if line["event"] == "model_server_ejected"]
