"""Options are checked where they are given, and TLS is what it says."""

import json

import pytest

from dermserve.client import TLS, Client, Unavailable
from dermserve.client._connection import Connection
from tests.certificates import make_certificate, server_credentials
from tests.client.fake_gateway import FakeGateway, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), host="gateway.test")


def test_tls_with_a_private_authority_and_a_client_certificate(certificate):
    roots, key = certificate.read_bytes(), certificate.with_suffix(".key").read_bytes()
    tls = TLS(root_certificates=roots, certificate_chain=roots, private_key=key, authority="gateway.test")
    credentials = server_credentials(certificate, client_ca=certificate)
    with serving(FakeGateway(), credentials=credentials) as port:
        target = f"127.0.0.1:{port}"
        with Client(target, tls=tls) as client:
            assert client.classify(b"1", model="m").classes[0].code == "mel"
        without = TLS(root_certificates=roots, authority="gateway.test")
        for stranger in (Client(target, tls=without, attempts=1), Client(target, attempts=1)):
            with stranger, pytest.raises(Unavailable):
                stranger.classify(b"1", model="m")


@pytest.mark.parametrize("name", ["root_certificates", "certificate_chain", "private_key"])
def test_what_is_no_pem_of_its_kind_is_refused(certificate, name):
    chain, key = certificate.read_bytes(), certificate.with_suffix(".key").read_bytes()
    swapped = chain if name == "private_key" else key
    with pytest.raises(ValueError, match=f"{name} is no PEM"):
        TLS(**{"certificate_chain": chain, "private_key": key, name: swapped})


def test_a_key_without_its_certificate_is_refused():
    with pytest.raises(ValueError, match="go together"):
        TLS(private_key=b"key")


def test_secrets_are_not_in_the_repr():
    tls = TLS(certificate_chain=b"-----BEGIN CERTIFICATE-----", private_key=b"-----BEGIN PRIVATE KEY-----SECRET")
    connection = Connection(tls=tls, metadata={"authorization": "SECRET"})
    assert "SECRET" not in repr(connection)


@pytest.mark.parametrize(
    ("key", "value"), [("X-Key", "a"), ("", "a"), ("x key", "a"), (":path", "a"), ("x", "a\n"), ("x", "é")]
)
def test_metadata_that_no_call_can_carry_is_refused_without_repeating_it(key, value):
    with pytest.raises(ValueError, match="metadata") as refused:
        Client(metadata={key: f"SECRET{value}"})
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("attempts", [0, 6])
def test_an_impossible_number_of_attempts_is_refused(attempts):
    with pytest.raises(ValueError, match="must"):
        Client(attempts=attempts)


@pytest.mark.parametrize(
    ("target", "words"),
    [("", "127.0.0.1:50051"), (":50051", "HOST:PORT"), ("host:0", "HOST:PORT"), ("host:65536", "HOST:PORT"),
     ("host:port", "HOST:PORT"), ("127.0.0.1:5005x", "HOST:PORT"), ("[::1]:x", "HOST:PORT"), ("dns:///host:x", "HOST"),
     ("http://host:1/v1", "give host:1$"), ("https://host", "give host, with TLS"), ("ftp://host", "HOST:PORT"),
     ("::1:50051", r"\[::1\]:50051"), ("fd00::7:50051x", r"\[::1\]"), ("a:b:1", "HOST:PORT")],
)  # fmt: skip
def test_a_target_that_cannot_be_is_refused(target, words):
    with pytest.raises(ValueError, match=words):
        Connection(target=target)


@pytest.mark.parametrize(
    "target", ["host", "host:1", "[::1]:1", "::1", "dns:///host:1", "dns:host", "ipv4:10.0.0.1:1,10.0.0.2:2",
               "ipv6:[::1]:1", "unix:/a.sock", "unix-abstract:a", "xds:///host", "[fe80::1%eth0]:1"],
)  # fmt: skip
def test_what_grpc_knows_as_a_target_is_taken(target):
    assert Connection(target=target).target == target


def test_the_channel_balances_retries_with_a_throttle_and_pings_no_more_than_servers_bear():
    options = dict(Connection().options())
    config = json.loads(options["grpc.service_config"])
    policy = config["methodConfig"][0]["retryPolicy"]
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert (policy["maxAttempts"], policy["retryableStatusCodes"]) == (4, ["UNAVAILABLE"])
    assert config["retryThrottling"]["maxTokens"] > 0
    assert options["grpc.keepalive_time_ms"] > 300_000


def test_the_authorities_of_ssl_cert_file_are_trusted(certificate, monkeypatch):
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(FakeGateway(), credentials=server_credentials(certificate)) as port:
        with Client(f"127.0.0.1:{port}", tls=TLS(authority="gateway.test")) as client:
            assert client.classify(b"1", model="m").version == 3
        monkeypatch.delenv("SSL_CERT_FILE")
        stranger = Client(f"127.0.0.1:{port}", tls=TLS(authority="gateway.test"), attempts=1)
        with stranger, pytest.raises(Unavailable):
            stranger.classify(b"1", model="m")


@pytest.mark.parametrize("content", [None, b"", b"no PEM", b"-----BEGIN PRIVATE KEY-----"])
def test_an_ssl_cert_file_that_does_not_serve_is_named(monkeypatch, tmp_path, content):
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "file.pem"))
    if content is not None:
        (tmp_path / "file.pem").write_bytes(content)
    with pytest.raises(ValueError, match=rf"SSL_CERT_FILE names {tmp_path}/file\.pem"):
        Client("gateway.example:1", tls=TLS())
    Client("gateway.example:1").close()  # plaintext needs none
