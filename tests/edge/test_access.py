"""Who may ask, and how often."""

import hashlib
import pathlib
import ssl
import time

import grpc
import pytest
import requests

from dermserve.client import Client, DermserveError
from dermserve.local.edge import Edge
from tests.certificates import make_certificate
from tests.edge.conftest import LENGTHS
from tests.edge.envoys import CLASSIFY, Keys, ask, make_keys, reason

DAY = 86400


def test_a_key_or_a_token_lets_in(locked: Edge, keys: Keys) -> None:
    assert ask(locked.url, "/v1/models", x_api_key="key-a").status_code == 200
    assert ask(locked.url, "/v1/models", authorization=f"Bearer {keys.token(sub='dora')}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_api_key": "key-c"},
        {"x_api_key": ""},
        {"authorization": "Bearer nonsense"},
        {"authorization": "Basic a2V5LWE6"},
        {"authorization": "bearer key-a"},
        {"x_dermserve_client": "alice"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", CLASSIFY, "/dermserve.v1.Classifier/ListModels"])
def test_nobody_else_gets_in(locked: Edge, headers: dict[str, str], path: str) -> None:
    posts = path != "/v1/models"
    response = ask(locked.url, path, body=b"x" if posts else None, **headers)
    assert (response.status_code, reason(response)) == (401, "UNAUTHENTICATED")


def test_a_token_must_be_signed_meant_for_us_and_in_time(locked: Edge, keys: Keys, tmp_path) -> None:  # type: ignore[no-untyped-def]
    good = keys.token()
    bad = [
        make_keys(tmp_path).token(),
        keys.token(iss="https://other.example"),
        keys.token(exp=DAY),
        good[:-4] + "AAAA",
    ]
    for token in bad:
        assert ask(locked.url, "/v1/models", authorization=f"Bearer {token}").status_code == 401
    other = ask(locked.url, "/v1/models", authorization=f"Bearer {keys.token(aud='other')}")
    assert other.status_code == 403
    for refused in (other, _grpc(locked, keys.token(aud="other")), _grpc(locked, "nonsense")):
        assert 'realm="http' not in str(refused.headers), "neither host nor path is repeated"


def _grpc(edge: Edge, token: str) -> requests.Response:
    path, kind = "/dermserve.v1.Classifier/ListModels", "application/grpc"
    return ask(edge.url, path, body=bytes(5), content_type=kind, authorization=f"Bearer {token}")


def test_the_page_and_the_document_need_no_key(locked: Edge) -> None:
    for path in ("/", "/app/", "/openapi.json", "/healthz"):
        assert ask(locked.url, path).status_code == 200


def test_a_client_that_asks_too_often_waits_and_others_do_not(locked: Edge, keys: Keys) -> None:
    token = f"Bearer {keys.token(sub='eve')}"
    codes = [ask(locked.url, "/v1/models", authorization=token).status_code for _ in range(7)]
    assert codes[:5] == [200] * 5
    assert codes[5:] == [429, 429]
    refused = ask(locked.url, "/v1/models", authorization=token)
    assert reason(refused) == "RATE_LIMITED"
    assert int(refused.headers["retry-after"]) == int(refused.headers["x-ratelimit-reset"]) > 30
    assert refused.headers["cache-control"] == "no-store"
    form = requests.post(locked.url + CLASSIFY, files={"image": b"x"}, headers={"authorization": token}, timeout=100)
    assert form.status_code == 429  # what is refused for another reason counts, too
    assert ask(locked.url, "/v1/models", x_api_key="key-b").status_code == 200


def test_grpc_passes_with_a_key_and_says_what_is_wrong_without(locked: Edge, keys: Keys) -> None:
    address = locked.url.removeprefix("http://")
    with Client(address, metadata={"authorization": f"Bearer {keys.token(sub='fred')}"}) as client:
        assert client.models()
    with Client(address) as client, pytest.raises(DermserveError) as raised:
        client.models()
    assert (raised.value.status, raised.value.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert "x-api-key" in raised.value.message


def test_grpc_is_told_of_a_rate_limit_and_when_to_try_again(locked: Edge, keys: Keys) -> None:
    address = locked.url.removeprefix("http://")
    metadata = {"authorization": f"Bearer {keys.token(sub='gina')}"}
    with Client(address, metadata=metadata) as client:
        for _ in range(5):
            client.models()
        with pytest.raises(DermserveError) as raised:
            client.models()
    assert (raised.value.status, raised.value.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    assert raised.value.retry_after == 60


def test_tls_carries_http_and_grpc(secure: Edge, photo: bytes) -> None:
    certificate = secure.settings.tls_cert
    assert certificate is not None
    response = requests.get(f"{secure.url}/v1/models", verify=str(certificate), timeout=100)
    assert response.status_code == 200
    assert "max-age" in response.headers["strict-transport-security"]
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(secure.url.removeprefix("https://"), credentials) as channel:
        call = channel.unary_unary("/dermserve.v1.Classifier/ListModels")
        assert call(b"", timeout=100)


def test_a_certificate_that_is_replaced_is_shown_without_a_restart(secure: Edge, tmp_path: pathlib.Path) -> None:
    certificate, key = secure.settings.tls_cert, secure.settings.tls_key
    assert certificate is not None
    assert key is not None
    host, port = secure.url.removeprefix("https://").split(":")
    old = ssl.get_server_certificate((host, int(port)))
    new = make_certificate(tmp_path)
    for file, place in ((new, certificate), (new.with_suffix(".key"), key)):
        file.replace(place)  # one after the other: for a moment they don't fit, and the old ones stay
    ends = time.monotonic() + 100
    while (shown := ssl.get_server_certificate((host, int(port)))) == old:
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert shown == certificate.read_text()
    assert requests.get(f"{secure.url}/v1/models", verify=str(certificate), timeout=100).status_code == 200


def test_only_known_origins_may_ask_from_other_pages(edge: Edge) -> None:
    asked = {"origin": "https://clinic.example", "access_control_request_method": "POST"}
    allowed = ask(edge.url, CLASSIFY, method="OPTIONS", **asked)
    assert allowed.headers["access-control-allow-origin"] == "https://clinic.example"
    assert "x-api-key" in allowed.headers["access-control-allow-headers"]
    refused = ask(edge.url, CLASSIFY, method="OPTIONS", **{**asked, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("length", LENGTHS)
def test_a_key_of_any_length_is_known_by_its_digest(locked: Edge, length: int) -> None:
    assert ask(locked.url, "/v1/models", x_api_key="k" * length).status_code == 200


@pytest.mark.parametrize("key", ["key-a", "k" * 257, "k" * 10_000])
def test_neither_a_digest_nor_a_longer_key_lets_in(locked: Edge, key: str) -> None:
    sent = hashlib.sha256(key.encode()).hexdigest() if key == "key-a" else key
    assert ask(locked.url, "/v1/models", x_api_key=sent).status_code == 401


@pytest.mark.parametrize(
    ("without", "claims"),
    [
        ("sub", {}),
        ("", {"sub": ""}),
        ("", {"sub": " "}),
        ("", {"sub": "a\nb"}),
        ("", {"sub": "a\x00b"}),
        ("", {"sub": None}),
        ("", {"sub": 5}),
        ("", {"sub": ["a"]}),
        ("exp", {}),
        ("", {"exp": None}),
        ("", {"exp": "soon"}),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/a", CLASSIFY, "/dermserve.v1.Classifier/ListModels"])
def test_a_token_must_name_its_client_and_expire(
    locked: Edge, keys: Keys, path: str, without: str, claims: dict[str, object]
) -> None:
    token = f"Bearer {keys.token(without, **claims)}"
    body = None if path.startswith("/v1/models") and path != CLASSIFY else b"x"
    response = ask(locked.url, path, body=body, authorization=token)
    assert (response.status_code, reason(response)) == (401, "UNAUTHENTICATED")


def test_who_is_refused_is_told_how_to_get_in(locked: Edge) -> None:
    refused = ask(locked.url, "/v1/models").headers["www-authenticate"]
    assert "Bearer" in refused
    assert "x-api-key" in refused


def test_a_token_in_the_query_does_not_let_in(locked: Edge, keys: Keys) -> None:
    assert ask(locked.url, f"/v1/models?access_token={keys.token()}").status_code == 401


def test_a_key_and_a_token_of_one_name_are_two_clients(locked: Edge, keys: Keys) -> None:
    token = f"Bearer {keys.token(sub='length-1')}"
    assert [ask(locked.url, "/v1/models", authorization=token).status_code for _ in range(6)][-1] == 429
    assert ask(locked.url, "/v1/models", x_api_key="k").status_code == 200


def test_no_token_without_a_limit_of_its_own(locked: Edge, keys: Keys) -> None:
    for subject in ("x", "a b", "auth0|" + "5" * 2000, '{"a": 1}'):
        token = f"Bearer {keys.token(sub=subject)}"
        codes = [ask(locked.url, "/v1/models", authorization=token).status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]


def test_the_rate_is_kept_to_the_request(secure: Edge) -> None:
    """119 a minute is one every 504 ms, not one a second, however late the requests come."""
    every = 60 / 119
    with requests.Session() as session:

        def asked() -> tuple[float, int, float]:
            began = time.monotonic()
            answer = session.get(f"{secure.url}/v1/models", verify=str(secure.settings.tls_cert), timeout=100)
            return began, answer.status_code, time.monotonic()

        while (empty := asked())[1] == 200:
            pass
        admitted = 0
        while (last := asked())[1] == 200 or admitted < 4:
            admitted += last[1] == 200
    # From one refusal to another as many are admitted as the bucket was given meanwhile.
    assert (last[0] - empty[2]) / every - 1 < admitted < (last[2] - empty[0]) / every + 1
