"""TLS, mTLS, certificates that change while it runs, and the plain port for probes."""

import asyncio
import contextlib
import datetime
import pathlib
import re
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from dermserve.gateway import certificates
from dermserve.gateway.config import Config
from dermserve.gateway.server import lifespan
from dermserve.v1 import classifier_pb2_grpc
from tests.certificates import make_certificate
from tests.gateway import gateways
from tests.gateway.fake_tfserving import FakeTfServing
from tests.gateway.gateways import SERVING, ask

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


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
            return await stub.Classify(ask(), timeout=100, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def _ready(address: str, trusting: pathlib.Path, showing: pathlib.Path | None = None) -> object:
    async with asyncio.timeout(100):
        answer: object = grpc.StatusCode.UNKNOWN
        while isinstance(answer, grpc.StatusCode):  # its catalog is not read yet
            answer = await _call(address, trusting=trusting, showing=showing)
    return answer


async def test_callers_need_tls_and_must_trust_the_certificate(tfs, tmp_path):
    certificate, stranger = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "stranger")
    async with tfs.serving() as tfs_address, _gateway(tfs_address, certificate) as address:
        assert (await _ready(address, certificate)).classes
        assert await _call(address, trusting=None) is grpc.StatusCode.UNAVAILABLE
        assert await _call(address, trusting=stranger) is grpc.StatusCode.UNAVAILABLE


async def test_with_mtls_callers_must_show_a_certificate_of_the_authority(tfs, tmp_path):
    server, client, stranger = (make_certificate(tmp_path, name) for name in ("server", "client", "stranger"))
    async with tfs.serving() as tfs_address, _gateway(tfs_address, server, tls_client_ca=client) as address:
        assert (await _ready(address, server, client)).classes
        assert await _call(address, trusting=server) is grpc.StatusCode.UNAVAILABLE
        assert await _call(address, trusting=server, showing=stranger) is grpc.StatusCode.UNAVAILABLE


# openssl ecparam -name secp112r1 -genkey -noout
STRANGE_KEY = b"""\
-----BEGIN EC PRIVATE KEY-----
MD4CAQEEDjhJ089150Zn3Wq+z6VZoAcGBSuBBAAGoSADHgAEZ95s/XtRTA1ZDb/H
5tpIdvlZSa405xWigOr4BA==
-----END EC PRIVATE KEY-----
"""
"""Of a curve that the library does not know."""


@pytest.mark.parametrize("broken", [None, b"", b"-----BEGIN", STRANGE_KEY, "another's", "half"], ids=str)
@pytest.mark.parametrize("suffix", [".pem", ".key"])
async def test_a_certificate_that_is_replaced_is_used_without_a_restart_and_a_broken_one_is_not(
    tfs, tmp_path, suffix, broken
):
    server, renewed = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "renewed")
    old, file = tmp_path / "old.pem", server.with_suffix(suffix)
    shutil.copy(server, old)
    async with tfs.serving() as tfs_address, _gateway(tfs_address, server) as address:
        assert (await _ready(address, old)).classes
        if broken is None:
            file.unlink()
        elif broken == "another's":  # one of the two is replaced before the other
            shutil.copy(renewed.with_suffix(suffix), file)
        else:
            file.write_bytes(file.read_bytes()[:100] if broken == "half" else broken)
        with capture_logs() as log:
            assert (await _call(address, trusting=old)).classes
        assert "certificate_not_read" in [entry["event"] for entry in log]
        for each in (".key", ".pem"):
            shutil.copy(renewed.with_suffix(each), server.with_suffix(each))
        assert (await _call(address, trusting=renewed)).classes
        assert await _call(address, trusting=old) is grpc.StatusCode.UNAVAILABLE


def test_a_key_and_a_certificate_that_are_replaced_while_they_are_read_are_not_mixed(tmp_path, monkeypatch):
    server, renewed = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "renewed")
    config = Config(tls_certificate=server, tls_key=server.with_suffix(".key"))
    files = certificates.TlsFiles(config, "tls")
    before, check_key = files.loaded, certificates.check_key
    shutil.copy(renewed.with_suffix(".key"), server.with_suffix(".key"))

    def replaced(key: pathlib.Path, *, of: pathlib.Path) -> None:
        shutil.copy(renewed, server)
        check_key(key, of=of)

    with monkeypatch.context() as patched:
        patched.setattr(certificates, "check_key", replaced)
        assert not files.renew()
    assert files.loaded == before
    assert files.renew()
    assert files.loaded == [None, renewed.with_suffix(".key").read_bytes(), renewed.read_bytes()]


async def test_probes_have_a_plain_port_that_answers_nothing_but_health(tfs, tmp_path, unused_port):
    certificate, probes = make_certificate(tmp_path, "server"), f"127.0.0.1:{unused_port}"
    async with tfs.serving() as tfs_address, _gateway(tfs_address, certificate, health_listen=probes) as address:
        assert (await _ready(address, certificate)).classes
        async with grpc.aio.insecure_channel(probes) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (await check(health_pb2.HealthCheckRequest(), timeout=100)).status == SERVING
            assert (await check(health_pb2.HealthCheckRequest(service="liveness"), timeout=100)).status == SERVING
        assert await _call(probes, trusting=None) is grpc.StatusCode.UNIMPLEMENTED


def _server_credentials(certificate: pathlib.Path, client_ca: pathlib.Path | None) -> grpc.ServerCredentials:
    own = (certificate.with_suffix(".key").read_bytes(), certificate.read_bytes())
    return grpc.ssl_server_credentials([own], client_ca.read_bytes() if client_ca else None, client_ca is not None)


async def test_the_way_to_the_model_server_is_encrypted_and_its_certificate_checked(tfs, tmp_path):
    server, stranger = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "stranger")
    async with tfs.serving(credentials=_server_credentials(server, None)) as address:
        named = {"tfs_address": address, "tfs_tls_name": "localhost"}
        async with gateways.running(**named, tfs_tls_ca=server) as world:
            assert (await world.stub.Classify(ask(), timeout=100)).classes
        for wrong in ({**named, "tfs_tls_ca": stranger}, {"tfs_address": address, "tfs_tls_ca": server}):
            async with gateways.running(**wrong, ready=False) as world:
                assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"
        async with gateways.running(tfs_address=address, ready=False) as world:
            assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"
    assert len(tfs.predicts) == 1


async def test_a_model_server_that_asks_for_a_certificate_is_shown_ours(tfs, tmp_path):
    server, client = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "client")
    async with tfs.serving(credentials=_server_credentials(server, client)) as address:
        trusting = {"tfs_address": address, "tfs_tls_name": "localhost", "tfs_tls_ca": server}
        own = {"tfs_tls_certificate": client, "tfs_tls_key": client.with_suffix(".key")}
        async with gateways.running(**trusting, **own) as world:
            assert (await world.stub.Classify(ask(), timeout=100)).classes
        async with gateways.running(**trusting, ready=False) as world:
            assert gateways.reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"


async def test_metrics_say_when_the_certificates_that_are_loaded_end_and_those_that_model_servers_show(tfs, tmp_path):
    server, tfs_ca = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "tfs")
    async with tfs.serving(credentials=_server_credentials(tfs_ca, None)) as address:
        config = Config(
            listen="localhost:0",
            tfs=address,
            tls_certificate=server,
            tls_key=server.with_suffix(".key"),
            tfs_tls_ca=tfs_ca,
            metrics_listen="localhost:0",
            resolve_seconds=0.1,
        )
        async with lifespan(config) as gateway, asyncio.timeout(100):
            url = f"http://{gateway.metrics_address}/metrics"
            found = await _expiry(url)
            while "model_server" not in found:
                found = await _expiry(url)
            assert set(found) == {"tls_certificate", "tfs_tls_ca", "model_server"}
            assert all(0 < ends - time.time() < 2 * 86400 + 60 for ends in found.values())
            tfs_ca.write_text("in the middle of being written")
            with capture_logs() as log:
                await _until(lambda: "certificate_not_read" in [entry["event"] for entry in log])
            assert await _expiry(url) == found


async def _until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(0.02)


async def _expiry(url: str) -> dict[str, float]:
    text = await asyncio.to_thread(_fetch, url)
    expiry = "dermserve_gateway_certificate_expiry_timestamp_seconds"
    return {use: float(ends) for use, ends in re.findall(rf'^{expiry}{{use="(\w+)"}} (\S+)$', text, re.MULTILINE)}


@pytest.mark.parametrize("damage", ["key", "certificate", "authority"])
async def test_files_that_do_not_fit_are_named_at_the_start(tmp_path, damage):
    server, other = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "other")
    files = {"certificate": server, "key": server.with_suffix(".key"), "authority": other}
    if damage == "key":
        files["key"] = other.with_suffix(".key")
    else:
        files[damage] = tmp_path / "empty.pem"
        files[damage].touch()
    named = {"tls_certificate": files["certificate"], "tls_key": files["key"], "tls_client_ca": files["authority"]}
    with pytest.raises(OSError, match=re.escape(str(files[damage]))):
        async with lifespan(Config(listen="localhost:0", **named)):
            pass


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=100) as response:
        return response.read().decode()


class _Authority:
    """Signs certificates that soon expire, as openssl can't."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self._key, seconds=3600)

    def _sign(self, key: ec.EllipticCurvePrivateKey, *, seconds: float) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        issuer, leaf = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in (f"{id(self)}", "leaf"))
        subject = issuer if key is self._key else leaf
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(seconds=seconds))
        builder = builder.add_extension(x509.BasicConstraints(ca=key is self._key, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(self, *, seconds: float) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, self._sign(key, seconds=seconds)


async def test_nothing_fails_while_all_certificates_towards_model_servers_are_replaced_and_the_old_ones_expire(
    tmp_path,
):
    for seconds in (6, 60):  # the latter where a busy machine takes longer than the former to replace them
        if await _replace_all(tmp_path, seconds):
            return
    raise AssertionError("the old ones expired before they were replaced")


async def _replace_all(tmp_path: pathlib.Path, seconds: float) -> bool:
    """Replace certificates that expire in so many seconds; return False if that took longer."""
    old, new, loads = _Authority(), _Authority(), asyncio.Event()
    both, paths = old.certificate + new.certificate, {n: tmp_path / n for n in ("ca.crt", "tls.crt", "tls.key")}

    def write(authorities: bytes, key: bytes, certificate: bytes) -> None:
        for name, pem in (("ca.crt", authorities), ("tls.key", key), ("tls.crt", certificate)):
            paths[name].write_bytes(pem)

    def trusting(authorities: bytes, own: tuple[bytes, bytes]) -> dict[str, object]:
        return {"credentials": grpc.ssl_server_credentials([own], authorities, True)}

    def is_late() -> bool:
        return time.time() >= expires or load.done()

    async def ask_on(world: gateways.World) -> int:
        count = 0
        while not loads.is_set():
            assert (await world.stub.Classify(ask(), timeout=100)).classes
            count += 1
        return count

    expires = time.time() + seconds
    write(old.certificate, *old.issue(seconds=seconds))
    servers = FakeTfServing(), FakeTfServing()
    async with contextlib.AsyncExitStack() as rest, contextlib.AsyncExitStack() as second:
        first = contextlib.AsyncExitStack()
        before = old.issue(seconds=seconds)
        async with first:
            addresses = [
                await stack.enter_async_context(server.serving(**trusting(old.certificate, before)))
                for stack, server in ((first, servers[0]), (second, servers[1]))
            ]
            own = {"tfs_tls_certificate": paths["tls.crt"], "tfs_tls_key": paths["tls.key"]}
            named = {"tfs_address": ",".join(addresses), "tfs_tls_ca": paths["ca.crt"], "tfs_tls_name": "localhost"}
            settings = {**named, **own, "resolve_seconds": 0.1}
            world = await rest.enter_async_context(gateways.running(**settings, ready=False))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(world.until_health(SERVING), expires - time.time())
            load = asyncio.create_task(ask_on(world))
            rest.callback(load.cancel)
            with capture_logs() as log:  # trust both, as an authority is replaced; then show the new one's
                write(both, *old.issue(seconds=seconds))
                moved = {"event": "model_server_reconnected"}
                await _until(lambda: sum(moved.items() <= entry.items() for entry in log) == 2 or is_late())
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        shown = trusting(both, new.issue(seconds=3600))
        await rest.enter_async_context(servers[0].serving(ports[0], **shown))
        asked = len(servers[0].predicts)
        # It comes back, with a certificate of the new authority.
        await _until(lambda: len(servers[0].predicts) > asked or is_late())
        write(both, *new.issue(seconds=3600))
        await second.aclose()
        await rest.enter_async_context(servers[1].serving(ports[1], **shown))
        if time.time() >= expires:
            return False
        await asyncio.sleep(expires - time.time())
        asked = len(servers[1].predicts)
        await _until(lambda: len(servers[1].predicts) > asked or load.done())
        loads.set()
        assert await load > 10
    return True
