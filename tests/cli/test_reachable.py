"""`dermserve doctor --target`, against real servers and what stands in their place."""

import contextlib
import inspect
import json
import pathlib
import re
import socket
import ssl
import threading

import pytest
from google.rpc import code_pb2

from dermserve.cli import reachable
from dermserve.cli.reachable import PICTURE
from dermserve.imaging import decode
from dermserve.v1 import classifier_pb2
from tests.certificates import make_certificate, server_credentials
from tests.client.fake_gateway import FakeGateway, abort, answer, rich_status, serving
from tests.client.http2 import answering
from tests.client.test_client import changed


@pytest.fixture
def examine(run):
    def call(target, *options):
        done = run("doctor", "--target", target, "--json", *options)
        assert done.stderr == ""
        return done.returncode, {found["code"]: found for found in map(json.loads, done.stdout.splitlines())}

    return call


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), host="gateway.test")


@pytest.fixture
def secured(certificate):
    with serving(FakeGateway(), credentials=server_credentials(certificate)) as port:
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def saying(word, context=None):
    """Accept connections, by TLS with a context; say a word to each, b"" to close it, None to say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as held:

        def accept():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.callback(connection.close)
                with contextlib.suppress(OSError):
                    if context is not None:
                        connection = held.enter_context(context.wrap_socket(connection, server_side=True))
                    if word == b"":
                        connection.close()
                    elif word is not None:
                        connection.recv(1)
                        connection.sendall(word)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_gateway_that_answers_has_no_errors(examine, gateway, target):
    code, found = examine(target)
    assert code == 0
    assert set(found) == {"PLAINTEXT", "ANSWERS", "MODEL", "ANSWER_TIME"}
    assert len(gateway.requests) == 9
    assert gateway.requests[0].image == PICTURE.read_bytes()


def test_the_picture_is_one_that_decodes():
    assert decode(PICTURE.read_bytes(), height=224, width=224) is not None


@pytest.mark.parametrize(("target", "found"), [("127.0.0.1:1", "UNREACHABLE"), ("no-such-gateway.invalid:1", "NAME")])
def test_an_address_that_leads_nowhere(examine, target, found):
    code, findings = examine(target)
    assert (code, set(findings)) == (1, {"PLAINTEXT", found})


def test_a_server_that_is_something_else(examine):
    with answering(404) as target:
        code, found = examine(target)
    assert code == 1
    assert "pass gRPC on" in found["HTTP_404"]["what"]


@pytest.mark.parametrize(
    ("word", "plain", "encrypted"),
    [
        (b"HTTP/1.1 505 Version Not Supported\r\n\r\n", "NOT_GRPC", "NO_TLS"),
        (b"<!DOCTYPE html>", "NOT_GRPC", "NO_TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "NOT_GRPC", "NO_TLS"),
        (b"", "CLOSED", "CLOSED"),
        (None, "SILENT", "SILENT"),
    ],
)
@pytest.mark.parametrize("tls", [(), ("--tls",)])
def test_a_port_of_something_else(examine, tls, word, plain, encrypted):
    with saying(word) as target:
        exit_code, found = examine(target, *tls, "--deadline", "0.5" if word is None else "100")
    found.pop("PLAINTEXT", None)
    assert (exit_code, set(found)) == (1, {encrypted if tls else plain})
    assert all("50051" in finding["remedy"] for finding in found.values())


@pytest.fixture
def proxied(monkeypatch):
    def call(address):
        for variable in ("grpc_proxy", "https_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("http_proxy", f"http://user:secret@{address}")

    return call


def test_a_proxy_that_does_not_answer_is_named(examine, proxied):
    proxied("127.0.0.1:9")
    code, found = examine("192.0.2.1:50051", "--deadline", "100")
    assert (code, set(found)) == (1, {"PROXY", "PLAINTEXT", "UNREACHABLE"})
    for name in ("PROXY", "UNREACHABLE"):
        assert "127.0.0.1:9 (http_proxy)" in found[name]["what"]
        assert "no_proxy" in str(found[name])
        assert "secret" not in str(found[name])


@pytest.mark.parametrize(
    ("word", "code"),
    [
        (b"", "CLOSED"),
        (None, "SILENT"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "PROXY_REFUSES"),
        (b"HTTP/1.1 200 Established\r\n\r\n", "SILENT"),  # what is behind it
    ],
)
def test_what_a_proxy_does_is_named(examine, proxied, word, code):
    with saying(word) as proxy:
        proxied(proxy)
        exit_code, found = examine("192.0.2.1:50051", "--deadline", "0.5" if code == "SILENT" else "100")
    assert (exit_code, set(found)) == (1, {"PROXY", "PLAINTEXT", code})
    assert "(http_proxy)" in found[code]["what"]


@pytest.mark.parametrize(
    ("server", "options", "code", "what", "remedy"),
    [
        ("secured", [], "CLOSED", "losed", "use --tls"),
        ("target", ["--tls"], "NO_TLS", "WRONG_VERSION", "leave --tls out"),
        ("secured", ["--tls"], "CERTIFICATE", "self", "--tls-ca"),
        ("secured", ["--tls-ca", "CA"], "CERTIFICATE", "Hostname", "--tls-authority"),
        ("secured", ["--tls-ca", "CA", "--tls-authority", "other.test"], "CERTIFICATE", "Hostname", "--tls-authority"),
    ],
)
def test_tls_that_does_not_suit(request, examine, certificate, server, options, code, what, remedy):
    options = [str(certificate) if option == "CA" else option for option in options]
    exit_code, found = examine(request.getfixturevalue(server), *options)
    found.pop("PLAINTEXT", None)
    assert (exit_code, set(found)) == (1, {code})
    assert what in found[code]["what"]
    assert remedy in found[code]["remedy"]


@pytest.mark.parametrize(
    ("days", "what", "remedy"), [((-9, -2), "expired", "renew"), ((2, 9), "not yet valid", "clock")]
)
def test_a_certificate_out_of_its_time(examine, tmp_path, days, what, remedy):
    file = make_certificate(tmp_path, days=days)
    with serving(FakeGateway(), credentials=server_credentials(file)) as port:
        code, found = examine(f"127.0.0.1:{port}", "--tls-ca", str(file))
    assert (code, set(found)) == (1, {"CERTIFICATE"})
    assert what in found["CERTIFICATE"]["what"]
    assert remedy in found["CERTIFICATE"]["remedy"]


def test_a_proxy_that_ends_tls_and_does_not_pass_http2_on(examine, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with saying(b"HTTP/1.1 400 Bad Request\r\n", context=context) as target:
        exit_code, found = examine(target, "--tls-ca", str(certificate), "--tls-authority", "gateway.test")
    assert (exit_code, set(found)) == (1, {"NO_ALPN"})


def test_a_gateway_that_wants_a_client_certificate(run, examine, tmp_path):
    server, client = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "client")
    own = ("--tls-ca", str(server), "--tls-cert")
    with serving(FakeGateway(), credentials=server_credentials(server, client_ca=client)) as port:
        target = f"127.0.0.1:{port}"
        assert examine(target, *own, str(client), "--tls-key", str(client.with_suffix(".key")))[0] == 0
        done = run("doctor", "--target", target, *own, client, "--tls-key", server.with_suffix(".key"))
        assert (done.returncode, "MISMATCH" in done.stderr) == (2, True)  # as of every command
        for given in (own[:2], (*own, str(server), "--tls-key", str(server.with_suffix(".key")))):
            code, found = examine(target, *given)
            assert (code, set(found)) == (1, {"CLOSED"})
            assert "--tls-cert" in found["CLOSED"]["remedy"]


def test_another_version_than_the_client_s_is_said(examine, gateway, target):
    gateway.classify = changed(gateway_version="9.9")
    code, found = examine(target)
    assert (code, found["VERSIONS"]["severity"]) == (0, "NOTE")
    assert "9.9" in found["VERSIONS"]["what"]


@pytest.mark.parametrize("target", ["http://127.0.0.1:50051", "127.0.0.1:port", "127.0.0.1:99999", ""])
def test_a_target_that_cannot_be_is_wrong_usage(run, target):
    done = run("doctor", "--target", target)
    assert (done.returncode, "give" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("reason", "words"), [("MODEL_SERVER_BUSY", "--grpc_max_threads"), ("OVERLOADED", "errors.md")]
)
def test_what_several_pictures_at_once_are_refused_for(examine, gateway, target, reason, words):
    def busy(request, context):
        if len(gateway.requests) > 5:
            abort(context, rich_status(code_pb2.RESOURCE_EXHAUSTED, "full", reason=reason))
        return answer(request)

    gateway.classify = busy
    code, found = examine(target)
    assert (code, found[reason]["severity"]) == (0, "WARNING")
    assert words in found[reason]["remedy"]


def test_a_gateway_whose_clock_differs_and_whose_model_cannot_answer(examine, gateway):
    def dated(request, context):
        context.send_initial_metadata((("date", "Tue, 15 Nov 1994 08:12:31 GMT"),))
        return classifier_pb2.ListModelsResponse(models=[classifier_pb2.Model(name="resnet50")])

    gateway.ListModels = dated
    with serving(gateway) as port:
        code, found = examine(f"127.0.0.1:{port}")
    assert (code, found["CLOCK"]["severity"], found["MODEL_NOT_AVAILABLE"]["severity"]) == (1, "WARNING", "ERROR")


def test_a_person_reads_what_to_do(run, target):
    done = run("doctor", "--target", target)
    assert "[PLAINTEXT]\n         → use TLS" in done.stdout


def test_without_a_target_it_is_the_settings_doctor(run):
    assert "--insecure" in run("doctor", "--help").stdout


def test_every_finding_is_in_the_docs():
    page = pathlib.Path(__file__).parents[2].joinpath("docs/troubleshooting.md").read_text()
    codes = {*re.findall(r'"(?:ERROR|WARNING|NOTE|OK)", "([A-Z_]+)"', inspect.getsource(reachable))}
    codes |= {code for _, code, _ in reachable._CAUSES}
    assert len(codes) > 15
    assert not [code for code in codes if f"`{code}`" not in page]
