"""Plain HTTP as people expect it: a photo as the body or in JSON, and errors that say what is wrong."""

import base64
import re
import socket
import time
import urllib.parse

import pytest
import requests

from dermserve.edge.config import VIEWER
from dermserve.local.edge import Edge
from tests.edge.envoys import CLASSIFY, MODEL, ask, reason


@pytest.mark.parametrize(("query", "views"), [("", 1), ("?tta=FULL", 10), ("?tta=none", 1), ("?tta=TTA_MODE_FULL", 10)])
def test_a_photo_is_the_whole_body(edge: Edge, photo: bytes, query: str, views: int) -> None:
    response = ask(edge.url, CLASSIFY + query, body=photo)
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["version"], answer["viewsUsed"]) == (MODEL, "1", views)
    assert sum(score["probability"] for score in answer["classes"]) == pytest.approx(1, abs=1e-4)
    assert answer["verdict"] == "VERDICT_UNCERTAIN"
    assert "not a diagnosis" in answer["notice"]


def test_json_and_a_plain_body_get_the_same_answer(edge: Edge, photo: bytes) -> None:
    as_json = {"image": base64.b64encode(photo).decode(), "tta": "TTA_MODE_FULL", "model": {"version": "1"}}
    answers = [
        ask(edge.url, CLASSIFY, body=as_json).json(),
        ask(edge.url, f"{CLASSIFY}?tta=FULL&version=1", body=photo).json(),
        ask(edge.url, CLASSIFY, body=photo, content_type="application/octet-stream").json(),
    ]
    assert answers[0]["classes"] == answers[1]["classes"]
    assert answers[2]["viewsUsed"] == 1


def test_models_and_cards_are_read(edge: Edge) -> None:
    assert [model["name"] for model in ask(edge.url, "/v1/models").json()["models"]] == [MODEL]
    (version,) = ask(edge.url, f"/v1/models/{MODEL}").json()["model"]["versions"]
    assert [item["code"] for item in version["card"]["classes"]] == ["bcc", "scc", "normal"]


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        (CLASSIFY, b"no image", 400, "UNSUPPORTED_FORMAT"),
        (CLASSIFY, b"", 400, "EMPTY_IMAGE"),
        (CLASSIFY, {}, 400, "EMPTY_IMAGE"),
        (f"{CLASSIFY}?tta=lots", b"x", 400, "MALFORMED_REQUEST"),
        (f"{CLASSIFY}?version=one", b"x", 400, "MALFORMED_REQUEST"),
        (f"{CLASSIFY}?colour=red", b"x", 400, "MALFORMED_REQUEST"),
        (f"{CLASSIFY}?version=9", "photo", 404, "VERSION_NOT_FOUND"),
        (f"{CLASSIFY}?label=nightly", "photo", 404, "LABEL_NOT_FOUND"),
        ("/v1/models/vgg16:classify", "photo", 404, "MODEL_NOT_FOUND"),
        ("/v1/models/vgg16", None, 404, "MODEL_NOT_FOUND"),
        ("/v1/models/a/b", None, 404, "NO_SUCH_ROUTE"),
        ("/v2", None, 404, "NO_SUCH_ROUTE"),
        (CLASSIFY, None, 405, "METHOD_NOT_ALLOWED"),
        ("/v1/models", {}, 405, "METHOD_NOT_ALLOWED"),
        ("/healthz", {}, 405, "METHOD_NOT_ALLOWED"),
        ("/app", {}, 405, "METHOD_NOT_ALLOWED"),
        ("/", {}, 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_what_is_wrong_is_said_as_a_status_with_the_right_code(
    edge: Edge, photo: bytes, path: str, body: object, status: int, expected: str
) -> None:
    response = ask(edge.url, path, body=photo if body == "photo" else body)
    assert (response.status_code, reason(response)) == (status, expected)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["message"]


def test_a_photo_as_large_as_allowed_reaches_the_gateway_and_a_larger_one_does_not(tight: Edge) -> None:
    fits = ask(tight.url, CLASSIFY, body=bytes(100_000))
    assert reason(fits) == "UNSUPPORTED_FORMAT"  # the gateway's word
    for size in (100_001, 200_000, 3_000_000):
        response = ask(tight.url, CLASSIFY, body=bytes(size))
        assert (response.status_code, reason(response)) == (413, "IMAGE_TOO_LARGE")


def test_json_with_too_large_a_photo_is_refused(tight: Edge) -> None:
    response = ask(tight.url, CLASSIFY, body={"image": base64.b64encode(bytes(110_000)).decode()})
    assert (response.status_code, reason(response)) == (413, "IMAGE_TOO_LARGE")


def test_an_upload_that_never_ends_is_ended(hasty: Edge) -> None:
    place = urllib.parse.urlparse(hasty.url)
    with socket.create_connection((place.hostname, place.port), timeout=100) as connection:
        head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: edge\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        answer = connection.makefile("rb").readline()
    assert b" 408 " in answer


def test_too_many_headers_are_refused(edge: Edge) -> None:
    response = requests.get(edge.url + "/v1/models", headers={f"x-{index}": "1" for index in range(100)}, timeout=100)
    assert response.status_code == 431


@pytest.mark.parametrize("path", ["/app/..%2f..%2fetc/passwd", "/app/%2e%2e/%2e%2e/etc/passwd", "/device/../../x"])
def test_no_path_leaves_the_folder_that_is_served(edge: Edge, path: str) -> None:
    request = requests.Request("GET", edge.url).prepare()
    request.url = edge.url + path
    with requests.Session() as session:
        assert session.send(request, timeout=100).status_code in {400, 404}


def test_everything_served_forbids_what_the_page_does_not_need(edge: Edge) -> None:
    for path in ("/app/", "/v1/models", "/nowhere"):
        headers = ask(edge.url, path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "unsafe-inline" not in headers["content-security-policy"]


@pytest.mark.skipif(not VIEWER.is_dir(), reason="NOT TESTED: the API page needs its viewer (make web)")
def test_the_api_page_alone_may_have_styles_within_its_elements(edge: Edge) -> None:
    policy = ask(edge.url, "/app/").headers["content-security-policy"]
    own = ask(edge.url, "/api/").headers["content-security-policy"]
    assert own == policy.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


def test_metrics_are_beside_and_the_admin_interface_is_not(edge: Edge, photo: bytes) -> None:
    ask(edge.url, CLASSIFY, body=photo)
    counted = requests.get(f"http://{edge.metrics}/stats/prometheus", timeout=100).text
    assert "envoy_http_downstream_rq_total" in counted
    assert requests.get(f"http://{edge.metrics}/ready", timeout=100).text == "LIVE\n"
    assert requests.post(f"http://{edge.metrics}/quitquitquit", timeout=100).status_code == 404
    assert requests.get(f"{edge.url}/healthz", timeout=100).status_code == 200


def test_the_log_has_no_photo_no_query_and_no_key(edge: Edge, photo: bytes) -> None:
    response = ask(
        edge.url, f"{CLASSIFY}?label=secret-label", body=photo, x_api_key="secret-key", x_request_id="find-me"
    )
    assert response.status_code == 404
    deadline = time.monotonic() + 100
    while not any("find-me" in line for line in edge.child.last_lines):  # Envoy writes its log now and then
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = "\n".join(edge.child.last_lines)
    assert CLASSIFY in lines
    assert "secret-" not in lines


@pytest.mark.parametrize(
    "path", ["/v1/models", f"/v1/models/{MODEL}", "/healthz", "/app/", "/openapi.json", "/v1/models/x"]
)
def test_head_is_answered_where_get_is(edge: Edge, path: str) -> None:
    got, head = ask(edge.url, path), ask(edge.url, path, method="HEAD")
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers.get("content-type") == got.headers.get("content-type")


def test_a_file_is_sent_once_while_it_is_the_same(edge: Edge) -> None:
    for path in ("/app/app.js", "/app/", "/openapi.json", "/app/icon-192.png"):
        got = ask(edge.url, path)
        tag = got.headers["etag"]
        assert got.headers["cache-control"] == "no-cache"
        for given in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
            again = ask(edge.url, path, if_none_match=given)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert ask(edge.url, path, if_none_match='"other"').content == got.content
        assert ask(edge.url, path, method="POST").status_code == 405


def test_answers_are_not_stored_and_say_nothing_of_grpc(edge: Edge, photo: bytes) -> None:
    for path, body in (
        ("/v1/models", None),
        (CLASSIFY, photo),
        (CLASSIFY, b"x"),
        ("/v1/models/x", None),
        ("/no", None),
    ):
        headers = ask(edge.url, path, body=body).headers
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith(("grpc-", "x-envoy", "x-dermserve")) for name in headers)


@pytest.mark.parametrize("name", ["a b", "a" * 65, "a,b", "é", "a/b", "", "{}", '"', "a" * 20_000])
def test_a_malformed_request_id_is_replaced(edge: Edge, name: str) -> None:
    early = ask(edge.url, "/app/..%2f", x_request_id=name.encode().decode("latin-1"))
    assert "x-request-id" not in early.headers  # refused before anything is checked
    assert name[:65] not in early.text or len(name) < 65
    for path in ("/v1/models", "/nowhere", "/v1/models/x"):
        given = ask(edge.url, path, x_request_id=name.encode().decode("latin-1"))
        assert re.fullmatch("[0-9a-f-]{36}", given.headers["x-request-id"])


@pytest.mark.parametrize("name", ["a" * 64, "A.b_c-9"])
def test_a_well_formed_request_id_is_kept(edge: Edge, photo: bytes, name: str) -> None:
    assert reason(ask(edge.url, "/v1/models/x", x_request_id=name)) == "MODEL_NOT_FOUND"
    response = ask(edge.url, CLASSIFY, body=photo, x_request_id=name)
    assert response.headers["x-request-id"] == response.json()["requestId"] == name


def test_nobody_sets_the_edges_own_headers(edge: Edge) -> None:
    own = {"x_dermserve_asked_id": "mine", "x_dermserve_body": "json", "x_dermserve_client": "a"}
    response = ask(edge.url, "/v1/models?a=b", **own)
    assert "mine" not in response.headers["x-request-id"]
    assert "the request is malformed" in response.json()["message"]


def test_a_person_at_a_wrong_address_is_shown_the_way(edge: Edge) -> None:
    response = ask(edge.url, "/wrong", accept="text/html,*/*")
    assert (response.status_code, response.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'href="/app/"' in response.text
    assert ask(edge.url, "/favicon.ico").headers["content-type"] == "image/png"


def test_a_redirect_keeps_scheme_and_host_as_the_browser_has_them(edge: Edge) -> None:
    for path, place in (("/", "/app/"), ("/app", "/app/"), ("/api", "/api/")):
        answer = requests.get(edge.url + path, headers={"host": "other"}, allow_redirects=False, timeout=100)
        assert (answer.status_code, answer.headers["location"]) == (302, place)
