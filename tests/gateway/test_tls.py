"""TLS, mTLS, certificates that change while it runs, and the plain port for probes."""

import asyncio
import contextlib
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from dermserve.gateway.config import Config
from dermserve.gateway.server import lifespan
from dermserve.v1 import classifier_pb2_grpc
from tests.gateway import gateways
from tests.gateway.gateways import SERVING, ask

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


def _certificate(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Make NAME.pem and NAME.key: its own authority, good for localhost."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return folder / f"{name}.pem"


@contextlib.asynccontextmanager
async def _gateway(tfs_address: str, certificate: pathlib.Path, **settings: object) -> AsyncIterator[str]:
    usual = {"listen": "localhost:0", "tfs": tfs_address, "poll_seconds": 0.1}
    tls = {"tls_certificate": certificate, "tls_key": certificate.with_suffix(".key")}
    async with lifespan(Config(**{**usual, **tls, **settings})) as gateway:
        yield gateway.address


def _credentials(trusting: pathlib.Path, showing: pathlib.Path | None) -> grpc.ChannelCredentials:
    own = (showing.with_suffix(".key").read_bytes(), showing.read_bytes()) if showing else (None, None)
    return grpc.ssl_channel_credentials(trusting.read_bytes(), *own)


async def _call(address: str, *, trusting: pathlib.Path | None, showing: pathlib.Path | None = None) -> object:
    """Ask over a new connection; without `trusting`, in plain text."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if trusting is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, _credentials(trusting, showing), options=options)
    async with channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        try:
            return await stub.Classify(ask(), timeout=20, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def _ready(address: str, trusting: pathlib.Path, showing: pathlib.Path | None = None) -> object:
    async with asyncio.timeout(20):
        answer: object = grpc.StatusCode.UNKNOWN
        while isinstance(answer, grpc.StatusCode):  # its catalog is not read yet
            answer = await _call(address, trusting=trusting, showing=showing)
    return answer


async def test_callers_need_tls_and_must_trust_the_certificate(tfs, tmp_path):
    certificate, stranger = _certificate(tmp_path, "server"), _certificate(tmp_path, "stranger")
    async with tfs.serving() as tfs_address, _gateway(tfs_address, certificate) as address:
        assert (await _ready(address, certificate)).classes
        assert await _call(address, trusting=None) is grpc.StatusCode.UNAVAILABLE
        assert await _call(address, trusting=stranger) is grpc.StatusCode.UNAVAILABLE


async def test_with_mtls_callers_must_show_a_certificate_of_the_authority(tfs, tmp_path):
    server, client, stranger = (_certificate(tmp_path, name) for name in ("server", "client", "stranger"))
    async with tfs.serving() as tfs_address, _gateway(tfs_address, server, tls_client_ca=client) as address:
        assert (await _ready(address, server, client)).classes
        assert await _call(address, trusting=server) is grpc.StatusCode.UNAVAILABLE
        assert await _call(address, trusting=server, showing=stranger) is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_that_is_replaced_is_used_without_a_restart_and_a_missing_one_is_not(tfs, tmp_path):
    server, renewed = _certificate(tmp_path, "server"), _certificate(tmp_path, "renewed")
    old = tmp_path / "old.pem"
    shutil.copy(server, old)
    async with tfs.serving() as tfs_address, _gateway(tfs_address, server) as address:
        assert (await _ready(address, old)).classes
        server.unlink()
        with capture_logs() as log:
            assert (await _call(address, trusting=old)).classes
        assert "certificate_not_read" in [entry["event"] for entry in log]
        for suffix in (".key", ".pem"):
            shutil.copy(renewed.with_suffix(suffix), server.with_suffix(suffix))
        assert (await _call(address, trusting=renewed)).classes
        assert await _call(address, trusting=old) is grpc.StatusCode.UNAVAILABLE


async def test_probes_have_a_plain_port_that_answers_nothing_but_health(tfs, tmp_path, unused_port):
    certificate, probes = _certificate(tmp_path, "server"), f"127.0.0.1:{unused_port}"
    async with tfs.serving() as tfs_address, _gateway(tfs_address, certificate, health_listen=probes) as address:
        assert (await _ready(address, certificate)).classes
        async with grpc.aio.insecure_channel(probes) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (await check(health_pb2.HealthCheckRequest(), timeout=20)).status == SERVING
            assert (await check(health_pb2.HealthCheckRequest(service="liveness"), timeout=20)).status == SERVING
        assert await _call(probes, trusting=None) is grpc.StatusCode.UNIMPLEMENTED


def _server_credentials(certificate: pathlib.Path, client_ca: pathlib.Path | None) -> grpc.ServerCredentials:
    own = (certificate.with_suffix(".key").read_bytes(), certificate.read_bytes())
    return grpc.ssl_server_credentials([own], client_ca.read_bytes() if client_ca else None, client_ca is not None)


async def test_the_way_to_the_model_server_is_encrypted_and_its_certificate_checked(tfs, tmp_path):
    server, stranger = _certificate(tmp_path, "server"), _certificate(tmp_path, "stranger")
    async with tfs.serving(credentials=_server_credentials(server, None)) as address:
        named = {"tfs_address": address, "tfs_tls_name": "localhost"}
        async with gateways.running(**named, tfs_tls_ca=server) as world:
            assert (await world.stub.Classify(ask(), timeout=20)).classes
        for wrong in ({**named, "tfs_tls_ca": stranger}, {"tfs_address": address, "tfs_tls_ca": server}):
            async with gateways.running(**wrong, ready=False) as world:
                assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"
        async with gateways.running(tfs_address=address, ready=False) as world:
            assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"
    assert len(tfs.predicts) == 1


async def test_a_model_server_that_asks_for_a_certificate_is_shown_ours(tfs, tmp_path):
    server, client = _certificate(tmp_path, "server"), _certificate(tmp_path, "client")
    async with tfs.serving(credentials=_server_credentials(server, client)) as address:
        trusting = {"tfs_address": address, "tfs_tls_name": "localhost", "tfs_tls_ca": server}
        own = {"tfs_tls_certificate": client, "tfs_tls_key": client.with_suffix(".key")}
        async with gateways.running(**trusting, **own) as world:
            assert (await world.stub.Classify(ask(), timeout=20)).classes
        async with gateways.running(**trusting, ready=False) as world:
            assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"


async def test_metrics_say_when_certificates_end(tfs, tmp_path):
    server, tfs_ca = _certificate(tmp_path, "server"), _certificate(tmp_path, "tfs")
    config = Config(
        listen="localhost:0",
        tfs="127.0.0.1:1",
        tls_certificate=server,
        tls_key=server.with_suffix(".key"),
        tfs_tls_ca=tfs_ca,
        metrics_listen="localhost:0",
    )
    async with lifespan(config) as gateway:
        text = await asyncio.to_thread(_fetch, f"http://{gateway.metrics_address}/metrics")
    expiry = "dermserve_gateway_certificate_expiry_timestamp_seconds"
    found = dict(re.findall(rf'^{expiry}{{use="(\w+)"}} (\S+)$', text, re.MULTILINE))
    assert set(found) == {"tls_certificate", "tfs_tls_ca"}
    assert all(0 < float(ends) - time.time() < 2 * 86400 + 60 for ends in found.values())


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()
