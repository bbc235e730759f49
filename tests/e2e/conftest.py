"""A real model server and a real gateway, as processes, once for all tests of this folder."""

import pathlib
from collections.abc import Iterator

import grpc
import pytest

from dermserve.client import Client
from dermserve.local import Stack

MODELS = ("resnet50", "mobilenet_v3_small")


@pytest.fixture(scope="session")
def stack(store: pathlib.Path) -> Iterator[Stack]:
    with Stack(store=store, models=MODELS, port=0, tfs_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.gateway_address) as connected:
        yield connected


@pytest.fixture(scope="session")
def tfs(stack: Stack) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(stack.tfs_address, options=options) as channel:
        yield channel
