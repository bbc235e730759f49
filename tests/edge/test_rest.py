"""Plain HTTP as people expect it: a photo as the body or in JSON, and errors that say what is wrong."""

import base64
import socket
import time
import urllib.parse

import pytest
import requests

from dermserve.local.edge import Edge
from tests.edge.asking import CLASSIFY, MODEL, ask, reason


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


def test_a_request_keeps_its_name(edge: Edge, photo: bytes) -> None:
    response = ask(edge.url, CLASSIFY, body=photo, x_request_id="my-request")
    assert response.headers["x-request-id"] == response.json()["requestId"] == "my-request"


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        (CLASSIFY, b"no image", 400, "UNSUPPORTED_FORMAT"),
        (CLASSIFY, b"", 400, "EMPTY_IMAGE"),
        (CLASSIFY, {}, 400, "EMPTY_IMAGE"),
        (CLASSIFY, {"image": "%%%"}, 400, "MALFORMED_REQUEST"),
        (CLASSIFY, {"image": 5}, 400, "MALFORMED_REQUEST"),
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
    ],
)
def test_what_is_wrong_is_said_as_a_status_with_the_right_code(
    edge: Edge, photo: bytes, path: str, body: object, status: int, expected: str
) -> None:
    response = ask(edge.url, path, body=photo if body == "photo" else body)
    assert (response.status_code, reason(response)) == (status, expected)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["message"]


def test_broken_json_is_the_senders_fault(edge: Edge) -> None:
    response = requests.post(edge.url + CLASSIFY, b'{"image":', headers={"content-type": "application/json"}, timeout=9)
    assert (response.status_code, reason(response)) == (400, "MALFORMED_REQUEST")


def test_a_photo_as_large_as_allowed_reaches_the_gateway_and_a_larger_one_does_not(tight: Edge) -> None:
    fits = ask(tight.url, CLASSIFY, body=bytes(100_000))
    assert reason(fits) == "UNSUPPORTED_FORMAT"  # the gateway's word
    for size in (100_001, 200_000, 3_000_000):
        response = ask(tight.url, CLASSIFY, body=bytes(size))
        assert (response.status_code, reason(response)) == (413, "IMAGE_TOO_LARGE")


def test_json_with_too_large_a_photo_is_refused(tight: Edge) -> None:
    response = ask(tight.url, CLASSIFY, body={"image": base64.b64encode(bytes(110_000)).decode()})
    assert (response.status_code, reason(response)) == (413, "IMAGE_TOO_LARGE")


def test_an_upload_that_never_ends_is_ended(tight: Edge) -> None:
    place = urllib.parse.urlparse(tight.url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: edge\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        answer = connection.makefile("rb").readline()
    assert b" 408 " in answer


def test_too_many_headers_are_refused(edge: Edge) -> None:
    response = requests.get(edge.url + "/v1/models", headers={f"x-{index}": "1" for index in range(100)}, timeout=30)
    assert response.status_code == 431


@pytest.mark.parametrize("path", ["/app/..%2f..%2fetc/passwd", "/app/%2e%2e/%2e%2e/etc/passwd", "/device/../../x"])
def test_no_path_leaves_the_folder_that_is_served(edge: Edge, path: str) -> None:
    request = requests.Request("GET", edge.url).prepare()
    request.url = edge.url + path
    with requests.Session() as session:
        assert session.send(request, timeout=30).status_code in {400, 404}


def test_everything_served_forbids_what_the_page_does_not_need(edge: Edge) -> None:
    for path in ("/app/", "/v1/models", "/nowhere"):
        headers = ask(edge.url, path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_metrics_are_beside_and_the_admin_interface_is_not(edge: Edge, photo: bytes) -> None:
    ask(edge.url, CLASSIFY, body=photo)
    counted = requests.get(f"http://{edge.metrics}/stats/prometheus", timeout=30).text
    assert "envoy_http_downstream_rq_total" in counted
    assert requests.get(f"http://{edge.metrics}/ready", timeout=30).text == "LIVE\n"
    assert requests.post(f"http://{edge.metrics}/quitquitquit", timeout=30).status_code == 404
    assert requests.get(f"{edge.url}/healthz", timeout=30).status_code == 200


def test_the_log_has_no_photo_no_query_and_no_key(edge: Edge, photo: bytes) -> None:
    response = ask(
        edge.url, f"{CLASSIFY}?label=secret-label", body=photo, x_api_key="secret-key", x_request_id="find-me"
    )
    assert response.status_code == 404
    deadline = time.monotonic() + 30
    while not any("find-me" in line for line in edge.child.last_lines):  # Envoy writes its log now and then
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = "\n".join(edge.child.last_lines)
    assert CLASSIFY in lines
    assert "secret-" not in lines
