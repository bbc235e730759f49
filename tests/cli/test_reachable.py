"""`dermserve doctor --target`, against real servers and what stands in their place."""

import json
import socket

import grpc
import pytest
from google.rpc import code_pb2

from dermserve.cli.reachable import draw_picture
from dermserve.imaging import decode
from dermserve.v1 import classifier_pb2
from tests.certificates import make_certificate
from tests.client.fake_gateway import FakeGateway, abort, answer, rich_status, serving
from tests.client.http2 import answering


@pytest.fixture
def examine(run):
    def call(target, *options):
        done = run("doctor", "--target", target, "--json", *options)
        assert done.stderr == ""
        return done.returncode, {found["code"]: found for found in map(json.loads, done.stdout.splitlines())}

    return call


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), "gateway", host="gateway.test")


@pytest.fixture
def secured(certificate):
    key, cert = certificate.with_suffix(".key").read_bytes(), certificate.read_bytes()
    with serving(FakeGateway(), credentials=grpc.ssl_server_credentials([(key, cert)])) as port:
        yield f"127.0.0.1:{port}"


def test_a_gateway_that_answers_has_no_errors(examine, gateway, target):
    code, found = examine(target)
    assert code == 0
    assert set(found) == {"PLAINTEXT", "ANSWERS", "MODEL", "ANSWER_TIME"}
    assert len(gateway.requests) == 9
    assert gateway.requests[0].image == draw_picture()


def test_the_picture_is_one_that_decodes():
    assert decode(draw_picture(), height=224, width=224) is not None


def test_nothing_is_classified_unless_wanted(examine, gateway, target):
    code, found = examine(target, "--no-probe")
    assert (code, "MODEL" in found, gateway.requests) == (0, True, [])


def test_an_address_where_nothing_listens(examine):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        code, found = examine(f"127.0.0.1:{held.getsockname()[1]}")
    assert (code, set(found)) == (1, {"UNREACHABLE"})


def test_a_name_without_an_address(examine):
    code, found = examine("no-such-gateway.invalid:50051")
    assert (code, set(found)) == (1, {"NAME"})


def test_a_server_that_is_something_else(examine):
    with answering(404) as target:
        code, found = examine(target)
    assert code == 1
    assert "no route to a gateway" in found["HTTP_404"]["what"]


def test_a_proxy_is_named(examine, monkeypatch):
    for variable in ("grpc_proxy", "https_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    code, found = examine("192.0.2.1:50051", "--deadline", "5")
    assert code == 1
    assert "127.0.0.1:9 (http_proxy)" in found["PROXY"]["what"]
    assert "no_proxy" in found["PROXY"]["remedy"]
    assert found["UNAVAILABLE"]["severity"] == "ERROR"


def test_tls_where_plain_text_is_asked_for(examine, secured):
    code, found = examine(secured)
    assert (code, found["TLS_WANTED"]["remedy"]) == (1, "use --tls")


def test_plain_text_where_tls_is_asked_for(examine, target):
    code, found = examine(target, "--tls")
    assert (code, set(found)) == (1, {"NO_TLS"})


def test_a_certificate_of_an_unknown_authority(examine, secured):
    code, found = examine(secured, "--tls")
    assert code == 1
    assert "self" in found["CERTIFICATE"]["what"]


def test_a_certificate_of_another_name(examine, secured, certificate):
    code, found = examine(secured, "--tls-ca", str(certificate))
    assert code == 1
    assert "127.0.0.1" in found["CERTIFICATE"]["what"]


def test_a_certificate_that_ends_soon(examine, secured, certificate):
    code, found = examine(secured, "--tls-ca", str(certificate), "--tls-authority", "gateway.test")
    assert (code, found["CERTIFICATE_EXPIRES"]["severity"]) == (0, "WARNING")
    assert "ANSWER_TIME" in found


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


def test_a_gateway_whose_clock_differs(examine, gateway, target):
    known = gateway.ListModels

    def dated(request, context):
        context.send_initial_metadata((("date", "Tue, 15 Nov 1994 08:12:31 GMT"),))
        return known(request, context)

    gateway.ListModels = dated
    with serving(gateway) as port:
        _, found = examine(f"127.0.0.1:{port}", "--no-probe")
    assert found["CLOCK"]["severity"] == "WARNING"


def test_a_model_that_cannot_answer(examine, gateway):
    gateway.ListModels = lambda request, context: classifier_pb2.ListModelsResponse(
        models=[classifier_pb2.Model(name="resnet50")]
    )
    with serving(gateway) as port:
        code, found = examine(f"127.0.0.1:{port}")
    assert (code, found["MODEL_NOT_AVAILABLE"]["severity"]) == (1, "ERROR")


def test_a_person_reads_what_to_do(run, target):
    done = run("doctor", "--target", target)
    assert "[PLAINTEXT]\n         → use TLS" in done.stdout


def test_without_a_target_it_is_the_settings_doctor(run):
    assert "--offline" in run("doctor", "--help").stdout
