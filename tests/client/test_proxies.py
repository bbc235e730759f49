"""Which way gRPC takes, by the environment's variables."""

import socket

import pytest

from dermserve.client import Client, DeadlineExceeded, Unavailable
from dermserve.client._connection import find_way
from tests.client.fake_gateway import FakeGateway, serving
from tests.client.test_classify_many import several

DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "LOCALHOST:1", "dns:///localhost:1", "ipv4:127.0.0.1:1",
        "ipv6:[::1]:1", "unix:/run/gateway", "unix:///run/gateway", "gateway.localhost:1", "localhost.:1", "localhost",
        "[::ffff:127.0.0.1]:1", "0.0.0.0:1", "[::]:1",
    ],
)  # fmt: skip
def test_the_loopback_is_never_behind_a_proxy(target):
    assert find_way(target, {"http_proxy": DEAD, "https_proxy": DEAD, "grpc_proxy": DEAD}).proxy is None


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize("target", ["gateway.example:1", "dns:///gateway.example:1", "10.0.0.1:1", "[fd00::1]:1"])
def test_others_are_by_the_variables_that_grpc_reads(target, variable):
    assert find_way(target, {variable: "http://user:secret@proxy.example:3128/"}).proxy == (
        f"proxy.example:3128 ({variable})"
    )


@pytest.mark.parametrize(
    "environment", [{}, {"ALL_PROXY": DEAD}, {"HTTPS_PROXY": DEAD}, {"http_proxy": "socks5://a:1"}]
)
def test_what_grpc_does_not_read_names_no_proxy(environment):
    assert find_way("gateway.example:1", environment).proxy is None


def test_a_proxy_s_ipv6_address_is_in_brackets():
    assert find_way("gateway.example:1", {"grpc_proxy": "http://[::1]:3128"}).proxy == "[::1]:3128 (grpc_proxy)"


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://proxy:bad", "http://proxy:99999", "http://user:se/cret@proxy:1"]
)
def test_a_variable_that_is_no_url_is_named_and_its_secrets_are_not(monkeypatch, url):
    with pytest.raises(ValueError, match=r"https_proxy is not the URL of a proxy: give http://HOST:PORT") as raised:
        find_way("gateway.example:1", {"https_proxy": url})
    assert not {"se", "cret", "bad"} & {*str(raised.value).split()}
    assert find_way("127.0.0.1:1", {"https_proxy": url}).proxy is None


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY", "no_grpc_proxy"])
@pytest.mark.parametrize(
    ("bypass", "target", "covered"),
    [
        ("*", "gateway.example:1", True),
        ("gateway.example", "gateway.example:1", True),
        ("GATEWAY.Example", "gateway.EXAMPLE:1", True),
        ("other,gateway.example", "gateway.example:1", True),
        ("other, gateway.example", "gateway.example:1", True),
        ("example", "gateway.example:1", True),
        (".example", "gateway.example:1", True),
        ("*.example", "gateway.example:1", True),
        (".gateway.example", "gateway.example:1", True),
        ("ample", "gateway.example:1", False),
        ("way.example", "gateway.example:1", False),
        ("gateway.example:1", "gateway.example:1", True),
        ("gateway.example:2", "gateway.example:1", False),
        ("gateway.example:1", "dns:///gateway.example:1", True),
        ("10.0.0.0/8", "10.9.9.9:1", True),
        ("10.0.0.0/8", "11.9.9.9:1", False),
        ("10.0.0.0/8", "gateway.example:1", False),
        ("10.0.0.1", "10.0.0.1:1", True),
        ("10.0.0.1:2", "10.0.0.1:1", False),
        ("0.0.1", "10.0.0.1:1", False),
        ("fd00::/8", "[fd00::1]:1", True),
        ("[fd00::1]:1", "[fd00:0::1]:1", True),
        ("not/a/network", "10.0.0.1:1", False),
        ("", "gateway.example:1", False),
        (",", "gateway.example:1", False),
    ],
)
def test_no_proxy_is_read_as_elsewhere(variable, bypass, target, covered):
    assert (find_way(target, {"https_proxy": DEAD, variable: bypass}).proxy is None) is covered


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost.", "dns:localhost", "dns:///localhost"])
def test_localhost_is_where_dermserve_listens(host):
    assert find_way(f"{host}:50051").target == "127.0.0.1:50051"
    assert find_way(f"{host}:50051").name == "localhost"  # in a certificate
    assert find_way(host).target == "127.0.0.1:443"
    assert find_way("[::1]:50051").target == "[::1]:50051"


def test_localhost_does_not_reach_what_listens_on_its_other_address(gateway, target):
    port = int(target.rpartition(":")[2])
    other = FakeGateway()
    try:
        with serving(other, host="[::1]", port=port), Client(f"localhost:{port}") as client:
            for _ in range(10):
                client.classify(b"1", model="m")
    except RuntimeError:
        pytest.skip("no IPv6 loopback here")
    assert (len(gateway.requests), other.requests) == (10, [])


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_dead_proxy_is_named_when_it_fails(monkeypatch, kind):
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    for variable in ("https_proxy", "grpc_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)

    (answer,) = several(kind, "192.0.2.1:50051", [b"1"])
    error = answer.error
    assert type(error) is Unavailable
    assert "through the proxy 127.0.0.1:9 (http_proxy)" in error.message
    assert "no_proxy" in error.message
    assert "secret" not in str(error)


def test_a_proxy_that_says_nothing_is_named_in_the_same_words_for_a_photo_and_a_stream(monkeypatch):
    for variable in ("https_proxy", "grpc_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and reads nothing
        proxy = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        with Client("192.0.2.1:50051", deadline=0.3) as client:
            (answer,) = client.classify_many([b"1"], model="m")
            with pytest.raises(DeadlineExceeded) as one:
                client.classify(b"1", model="m")
    said = f"no answer from 192.0.2.1:50051 through the proxy {proxy} (http_proxy) in time: allow more time, or ask for"
    for error in (answer.error, one.value):
        assert type(error) is DeadlineExceeded
        assert error.message.startswith(said)
        assert error.message.endswith("list the host in no_proxy to go without the proxy")


def test_the_loopback_answers_whatever_the_variables_say(monkeypatch, target):
    for variable in ("http_proxy", "https_proxy", "grpc_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, DEAD)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Client(target, attempts=1) as client:
        assert client.classify(b"1", model="m").version == 3
