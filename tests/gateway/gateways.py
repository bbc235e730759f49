"""A gateway in this test's process, and what a test asks of it."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from dermserve.gateway.config import Config
from dermserve.gateway.server import Gateway, lifespan
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MODEL = "resnet50"


def make_photo(image_format: str = "JPEG", *, size: tuple[int, int] = (320, 240), **options: object) -> bytes:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([120 + columns * 100 // size[0], 100 + rows * 60 // size[1], np.full_like(rows, 90)], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, image_format, **options)
    return file.getvalue()


PHOTO = make_photo()


def ask(image: bytes = PHOTO, *, model: str = MODEL, tta: int = 0, **choice: object) -> classifier_pb2.ClassifyRequest:
    return classifier_pb2.ClassifyRequest(
        model=classifier_pb2.ModelSelector(name=model, **choice), image=image, tta=tta
    )


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    status = rpc_status.from_call(error)
    assert status is not None
    return status


def reason_of(error: grpc.aio.AioRpcError | status_pb2.Status) -> str:
    status = error if isinstance(error, status_pb2.Status) else status_of(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "dermserve.v1"
    return info.reason


@dataclass
class World:
    """A running gateway and the stubs to call it."""

    gateway: Gateway
    channel: grpc.aio.Channel
    stub: classifier_pb2_grpc.ClassifierStub

    async def health(self, service: str = "") -> int:
        check = health_pb2_grpc.HealthStub(self.channel).Check
        return (await check(health_pb2.HealthCheckRequest(service=service), timeout=100)).status

    async def until_health(self, status: int, *, watching: asyncio.Event | None = None) -> None:
        """Wait on the health stream until it says so; `watching` is set when it has said anything."""
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=100)
        async for update in watch:
            if watching:
                watching.set()
            if update.status == status:
                watch.cancel()
                return

    async def refusal(self, request: classifier_pb2.ClassifyRequest, **options: object) -> grpc.aio.AioRpcError:
        try:
            answer = await self.stub.Classify(request, **{"timeout": 100, **options})
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"expected an error, got {answer}")


# Times that only a test of them reaches, however long the machine stalls.
PATIENT = {"default_deadline_seconds": 200, "max_deadline_seconds": 200, "poll_timeout_seconds": 60}


@contextlib.asynccontextmanager
async def running(*, tfs_address: str, ready: bool = True, **settings: object) -> AsyncIterator[World]:
    usual = {"listen": "127.0.0.1:0", "tfs": tfs_address, "poll_seconds": 0.1, "tfs_in_flight": 32, **PATIENT}
    config = Config(**{**usual, **settings})
    async with lifespan(config) as gateway:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
            world = World(gateway, channel, classifier_pb2_grpc.ClassifierStub(channel))
            if ready:
                await asyncio.wait_for(world.until_health(SERVING), 100)
            yield world
