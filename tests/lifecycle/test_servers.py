"""Commands speak TLS to model servers, as TensorFlow Serving's --ssl_config_file has it."""

import itertools
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from dermserve.models.lifecycle.manifest import GOLDEN, WARMUP, write_manifest
from dermserve.tfserving.v1 import management_pb2
from tests.certificates import make_certificate
from tests.lifecycle.fake_servers import GrpcHandler
from tests.lifecycle.versions_at_hand import CONFIG, make_version, records, run

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


_PAIR = ["--tfs-tls-ca={0}/server.pem", "--tfs-tls-certificate={0}/client.pem"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client", "stranger"):
        make_certificate(folder, name, host="modelserver")
    locked = ["-aes256", "-passout", "pass:secret", "-out", str(folder / "locked.key")]
    subprocess.run(["openssl", "ec", "-in", str(folder / "client.key"), *locked], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def address(certificates: pathlib.Path) -> Iterator[str]:
    """A server that asks for a certificate: `client_verify: true`."""
    server_pair = [(certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes()]
    credentials = grpc.ssl_server_credentials(
        [tuple(server_pair)], (certificates / "client.pem").read_bytes(), require_client_auth=True
    )
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[GrpcHandler()])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    make_version(tmp_path / "m" / "1")
    (tmp_path / "models.config").write_text(CONFIG)
    return tmp_path


def _options(folder: pathlib.Path, own: str = "client", ca: str = "server") -> list[str]:
    pair = [f"--tfs-tls-certificate={folder / own}.pem", f"--tfs-tls-key={folder / own}.key"]
    return [f"--tfs-tls-ca={folder / ca}.pem", *pair, "--tfs-tls-name=modelserver"]


class _Busy(GrpcHandler):
    """Refuses two calls of three, as TensorFlow Serving does while as many are in flight as it has threads for."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = itertools.count()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if next(self._calls) % 3 == 2:
            return super().service(details)
        code, words = grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"
        return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, words))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(store: pathlib.Path) -> None:
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[_Busy()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        done = run("promote", "m", store=store, tfs=f"127.0.0.1:{port}")
        server.stop(None).wait()
    assert done.exit_code == 0, done.output


def test_promote_and_status_speak_mtls_by_options_and_by_variables(
    store: pathlib.Path, address: str, certificates: pathlib.Path
) -> None:
    options = [f"--tfs={address}", *_options(certificates)]
    assert run("promote", "m", *options, store=store).exit_code == 0
    status = run("status", *options, store=store)
    assert (status.exit_code, "AVAILABLE [stable]" in status.stdout) == (0, True)
    variables = {
        "DERMSERVE_TFS": address, "DERMSERVE_TFS_TLS_CA": str(certificates / "server.pem"),
        "DERMSERVE_TFS_TLS_CERTIFICATE": str(certificates / "client.pem"),
        "DERMSERVE_TFS_TLS_KEY": str(certificates / "client.key"), "DERMSERVE_TFS_TLS_NAME": "modelserver",
    }  # fmt: skip
    assert run("status", store=store, env=variables).exit_code == 0


def test_verify_speaks_mtls(store: pathlib.Path, address: str, certificates: pathlib.Path) -> None:
    version = make_version(store / "m" / "2")  # which the server has not loaded, as it says
    for name in (WARMUP, GOLDEN):
        (version / name).write_bytes(records([management_pb2.PredictLog()]))
    write_manifest(version, model="m", about={})
    done = run("verify", "m", "2", f"--tfs={address}", *_options(certificates), store=store)
    assert (done.exit_code, address in done.stdout, "promote it first" in done.stdout) == (1, True, True), done
    done = run("verify", "m", "2", f"--tfs={address}", *_options(certificates, own="stranger"), store=store)
    assert (done.exit_code, "does not answer" in done.output) == (3, True), done.output


@pytest.mark.parametrize(
    "options",
    [
        lambda folder: [],
        lambda folder: _options(folder, ca="stranger"),
        lambda folder: _options(folder, own="stranger"),
        lambda folder: [f"--tfs-tls-ca={folder}/server.pem", "--tfs-tls-name=modelserver"],
        lambda folder: _options(folder)[:-1],
    ],
    ids=["plain", "another authority", "a stranger's certificate", "no certificate", "another name"],
)
def test_wrong_tls_is_a_server_that_does_not_answer(
    store: pathlib.Path, address: str, certificates: pathlib.Path, options: object
) -> None:
    done = run("status", f"--tfs={address}", *options(certificates), store=store)
    assert done.exit_code == 3
    assert f"{address} does not answer" in done.output
    assert "--tfs-tls-ca" in done.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tfs-tls-ca={0}/server.pem", "--tfs-tls-key={0}/client.key"], "need each other"),
        (["--tfs-tls-name=modelserver"], "need --tfs-tls-ca"),
        (["--tfs-tls-ca={0}/none.pem"], "does not exist"),
        (["--tfs-tls-ca={0}/server.key"], "server.key can't be used for TLS"),
        ([*_PAIR, "--tfs-tls-key={0}/stranger.key"], "client.pem with the key"),
        ([*_PAIR, "--tfs-tls-key={0}/client.pem"], "client.pem with the key"),
        ([*_PAIR, "--tfs-tls-key={0}/locked.key"], "client.pem with the key"),
    ],
)
def test_options_of_tls_that_do_not_fit_are_refused(
    store: pathlib.Path, certificates: pathlib.Path, options: list[str], words: str
) -> None:
    done = run("promote", "m", *(option.format(certificates) for option in options), store=store)
    assert (done.exit_code, words in " ".join(done.output.split())) == (2, True), done.output
