"""A real model server and a real gateway, as processes, once for all tests of this folder; they end with it."""

import contextlib
import pathlib
from collections.abc import Iterator

import grpc
import pytest

from dermserve.client import Client
from dermserve.local import Stack
from tests.drawing import draw_lesion

MODELS = ("resnet50", "mobilenet_v3_small")


PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG that the shipped models do not reject: they are uncertain of it."""
    return draw_lesion(seed=1)


@pytest.fixture(scope="package")
def stack(store: pathlib.Path) -> Iterator[Stack]:
    """Start both behind a proxy that is dead: nothing of ours may go through one to the loopback."""
    with contextlib.ExitStack() as running:
        with pytest.MonkeyPatch.context() as environment:
            for name in PROXIES:
                environment.setenv(name, "http://127.0.0.1:9")
            for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
                environment.delenv(name, raising=False)
            # However long the machine stalls, no view is left out for want of time.
            environment.setenv("DERMSERVE_MAX_DEADLINE_SECONDS", "600")
            started = running.enter_context(Stack(store=store, models=MODELS, port=0, tfs_port=0))
        yield started


@pytest.fixture(scope="package")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.gateway_address, deadline=300) as connected:
        yield connected


@pytest.fixture(scope="package")
def tfs(stack: Stack) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(stack.tfs_address, options=options) as channel:
        yield channel
