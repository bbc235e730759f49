"""A real gateway and model server, once, and a real Envoy before them for each way it is set up."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from dermserve.local import Stack
from dermserve.local.edge import Edge
from tests.edge.envoys import Keys, make_certificate, make_keys, run


@pytest.fixture(scope="session")
def gateway(store: pathlib.Path) -> Iterator[Stack]:
    with Stack(store=store, models=["mobilenet_v3_small"], port=0, tfs_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def edge(gateway: Stack, store: pathlib.Path) -> Iterator[Edge]:
    """One that lets everybody ask."""
    with run(gateway, store, metrics="127.0.0.1:0", origins=("https://clinic.example",)) as running:
        yield running


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def locked(gateway: Stack, store: pathlib.Path, keys: Keys) -> Iterator[Edge]:
    """One that asks for an API key or a token, and lets each client ask five times at once."""
    settings: dict[str, Any] = {"keys": (("alice", "key-a"), ("bob", "key-b")), "jwt": keys.jwt}
    with run(gateway, store, requests_per_minute=1, burst=5, **settings) as running:
        yield running


@pytest.fixture(scope="session")
def tight(gateway: Stack, store: pathlib.Path) -> Iterator[Edge]:
    """One with little patience."""
    with run(gateway, store, upload_seconds=1, max_photo_bytes=100_000) as running:
        yield running


@pytest.fixture(scope="session")
def secure(gateway: Stack, store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(run(gateway, store, certificate=certificate, key=key))
