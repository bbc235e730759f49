"""A real gateway and model server, once, and a real Envoy before them for each way it is set up."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from dermserve.local import Stack
from dermserve.local.edge import Edge
from tests.certificates import make_certificate
from tests.edge.envoys import Keys, make_keys, run, write_keys

LENGTHS = (1, 55, 56, 63, 64, 119, 120, 256)
"""Lengths of API keys at which SHA-256 pads differently, and the longest."""


@pytest.fixture(scope="package")
def store(small_store: pathlib.Path) -> pathlib.Path:
    """A store with the one model that these tests ask."""
    return small_store


@pytest.fixture(scope="package")
def gateway(store: pathlib.Path) -> Iterator[Stack]:
    with contextlib.ExitStack() as running:
        with pytest.MonkeyPatch.context() as environment:
            # However long the machine stalls, no view is left out for want of time.
            environment.setenv("DERMSERVE_DEFAULT_DEADLINE_SECONDS", "600")
            environment.setenv("DERMSERVE_MAX_DEADLINE_SECONDS", "600")
            started = running.enter_context(Stack(store=store, models=["mobilenet_v3_small"], port=0, tfs_port=0))
        yield started


@pytest.fixture(scope="package")
def edge(gateway: Stack, store: pathlib.Path) -> Iterator[Edge]:
    """One that lets everybody ask."""
    with run(gateway, store, metrics="127.0.0.1:0", origin=("https://clinic.example",)) as running:
        yield running


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="package")
def locked(gateway: Stack, store: pathlib.Path, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One that asks for an API key or a token, and lets each client ask five times at once."""
    many = {f"length-{size}": "k" * size for size in LENGTHS}
    path = write_keys(tmp_path_factory.mktemp("keys") / "keys.json", alice="key-a", bob="key-b", **many)
    with run(gateway, store, requests_per_minute=1, burst=5, keys=path, **keys.settings) as running:
        yield running


@pytest.fixture(scope="package")
def tight(gateway: Stack, store: pathlib.Path) -> Iterator[Edge]:
    """One that takes small photos only."""
    with run(gateway, store, max_photo_bytes=100_000) as running:
        yield running


@pytest.fixture(scope="package")
def hasty(gateway: Stack, store: pathlib.Path) -> Iterator[Edge]:
    """One with little patience."""
    with run(gateway, store, upload_seconds=1) as running:
        yield running


@pytest.fixture(scope="package")
def secure(gateway: Stack, store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One with TLS, and a rate limit that is no whole number a second."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    limits = {"requests_per_minute": 119, "burst": 20}  # a burst that no busy machine is late enough to fill
    with run(gateway, store, tls_cert=certificate, tls_key=certificate.with_suffix(".key"), **limits) as running:
        yield running
