"""Bodies that people send: read as they were meant, or refused without a word of them."""

import base64
import gzip
import json

import pytest
import requests

from dermserve.local.edge import Edge
from tests.edge.envoys import CLASSIFY, MODEL, ask, reason

SECRET = "SECRETSECRETSECRET"
BASE64 = base64.b64encode(SECRET.encode() * 100).decode()
MARKS = (SECRET, BASE64[:24])
JSON = "application/json"


def _send(edge: Edge, body: bytes, *, query: str = "", path: str = CLASSIFY, **headers: str) -> requests.Response:
    """Send bytes with just these headers."""
    request = requests.Request("POST", edge.url + path + query, data=body).prepare()
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    with requests.Session() as session:
        return session.send(request, timeout=100)


@pytest.mark.parametrize(
    "kind",
    [
        "IMAGE/JPEG; charset=binary",
        "image/jpeg;charset=utf-8",
        "Image/Png",
        "image/*",
        "application/OCTET-STREAM",
        "application/x-www-form-urlencoded",  # curl --data-binary without a type
        "",
        None,
    ],
)
def test_a_photo_is_known_whatever_type_it_has(edge: Edge, photo: bytes, kind: str | None) -> None:
    response = _send(edge, photo, **({} if kind is None else {"content_type": kind}))
    assert response.status_code == 200
    assert response.json()["model"] == MODEL


@pytest.mark.parametrize("kind", [JSON, "APPLICATION/JSON; charset=UTF-8", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize(
    "start", ["", "data:image/jpeg;base64,", "data:;base64,", "DATA:image/jpeg;name=a b.jpg;BASE64,"]
)
def test_base64_and_data_urls_in_json_are_photos(edge: Edge, photo: bytes, start: str, kind: str | None) -> None:
    body = json.dumps({"image": start + base64.b64encode(photo).decode()})
    for text in (body, body.replace("/", "\\/"), body.replace(":", " :\n\t", 1)):
        response = _send(edge, text.encode(), **({} if kind is None else {"content_type": kind}))
        assert response.status_code == 200, response.text


def test_a_data_url_as_the_body_is_a_photo(edge: Edge, photo: bytes) -> None:
    body = b"data:image/jpeg;base64," + base64.b64encode(photo) + b"\n"
    assert _send(edge, body, content_type="image/jpeg").status_code == 200


@pytest.mark.parametrize(("tta", "views"), [("FULL", 10), ("full", 10), ("None", 1), ("TTA_MODE_FULL", 10), (2, 10)])
def test_tta_is_said_in_json_as_in_the_query(edge: Edge, photo: bytes, tta: object, views: int) -> None:
    image = base64.b64encode(photo).decode()
    for body in ({"tta": tta, "image": image}, {"image": image, "model": {}, "tta": tta}):
        assert ask(edge.url, CLASSIFY, body=body).json()["viewsUsed"] == views


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/xml",
        "application/grpc",
        "application/jsonx",
        "image/",
    ],
)
def test_other_types_are_refused_with_advice(edge: Edge, photo: bytes, kind: str) -> None:
    response = _send(edge, photo, content_type=kind)
    assert response.status_code == 415 or kind == "application/grpc"
    if kind != "application/grpc":
        assert reason(response) == "UNSUPPORTED_MEDIA_TYPE"
        assert "curl --data-binary @photo.jpg" in response.json()["message"]
        assert "\n" not in response.json()["message"]


def test_a_form_is_refused_with_advice(edge: Edge, photo: bytes) -> None:
    response = requests.post(edge.url + CLASSIFY, files={"image": ("a.jpg", photo, "image/jpeg")}, timeout=100)
    assert (response.status_code, reason(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_refused_with_advice(edge: Edge, photo: bytes, coding: str) -> None:
    for kind in ("image/jpeg", JSON):
        response = _send(edge, gzip.compress(photo), content_type=kind, content_encoding=coding)
        assert (response.status_code, reason(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert _send(edge, photo, content_type="image/jpeg", content_encoding="identity").status_code == 200


MALFORMED = {
    "truncated": f'{{"image":"{BASE64}',
    "truncated key": f'{{"{SECRET}',
    "not json": SECRET,
    "a string": f'"{SECRET}"',
    "an array": f'["{SECRET}"]',
    "image a number": f'{{"image":5,"{SECRET}":1}}',
    "image an object": f'{{"image":{{"{SECRET}":"{SECRET}"}}}}',
    "image a list": f'{{"image":["{BASE64}"]}}',
    "not base64": f'{{"image":"{SECRET}%%%"}}',
    "data URL that is not base64": f'{{"image":"data:image/jpeg,{SECRET}%FF"}}',
    "data URL inside": f'{{"image":"data:image/jpeg;base64,{SECRET}!"}}',
    "nul": f'{{"image":"{SECRET}\0"}}',
    "nul outside": f'{{"image":"{BASE64}"}}\0{SECRET}',
    "two values": f'{{"image":"{BASE64}"}}{{"image":"{BASE64}"}}',
    "duplicate keys": f'{{"image":"{BASE64}","image":"{SECRET}%"}}',
    "single quotes": f"{{'image':'{SECRET}'}}",
    "trailing comma": f'{{"image":"{BASE64}",}}',
    "unknown tta": f'{{"image":"{BASE64}","tta":"{SECRET}"}}',
    "tta an object": f'{{"image":"{BASE64}","tta":{{"{SECRET}":1}}}}',
    "version a word": f'{{"model":{{"version":"{SECRET}"}}}}',
    "version too large": f'{{"model":{{"version":"99999999999999999999"}},"{SECRET}":1}}',
    "model a string": f'{{"model":"{SECRET}"}}',
    "both choices": f'{{"model":{{"version":"1","label":"{SECRET}"}}}}',
    "deep": "[" * 5000 + SECRET,
    "deep objects": '{"a":' * 5000 + f'"{SECRET}"' + "}" * 5000,
    "deep below image": '{"image":' + "[" * 5000 + f'"{SECRET}"',
    "huge": f'{{"image":"{SECRET * 100_000}%"}}',
    "bad escape": f'{{"image":"\\q{SECRET}"}}',
    "bad surrogate": f'{{"image":"\\ud800{SECRET}"}}',
    "byte order mark": f'\ufeff{{"image":"{BASE64}"',
    "a number": "1" * 5000,
    "form": f"image={SECRET}",
    "empty": "",
    "spaces": "   ",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_no_error_repeats_the_body(edge: Edge, name: str) -> None:
    body = MALFORMED[name].encode()
    for kind in (JSON, "image/jpeg", None):
        response = _send(edge, body, **({} if kind is None else {"content_type": kind}))
        assert response.status_code == 400, response.text[:500]
        assert reason(response) in {"MALFORMED_REQUEST", "UNSUPPORTED_FORMAT", "EMPTY_IMAGE"}
        _repeats_nothing(response)


@pytest.mark.parametrize("body", [b"\xff\xfe" + SECRET.encode(), b'{"image":"\xff' + SECRET.encode() + b'"}'])
def test_no_error_repeats_bytes_that_are_no_text(edge: Edge, body: bytes) -> None:
    response = _send(edge, body, content_type=JSON)
    assert response.status_code == 400
    _repeats_nothing(response)


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text", "application/grpc", JSON])
@pytest.mark.parametrize("frame", [b"\0\0\0\0\x12", b"\0\xff\xff\xff\xff", b"\x01\0\0\0\x12", b"\x80\0\0\0\x12", b""])
def test_no_error_of_grpc_repeats_the_frames(edge: Edge, kind: str, frame: bytes) -> None:
    body = frame + SECRET.encode()
    path = "/dermserve.v1.Classifier/Classify"
    response = _send(edge, base64.b64encode(body) if "text" in kind else body, path=path, content_type=kind)
    if kind == JSON:
        assert (response.status_code, reason(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    _repeats_nothing(response)


def _repeats_nothing(response: requests.Response) -> None:
    told = response.text + str(response.headers)
    assert not any(mark in told or base64.b64encode(mark.encode()).decode()[:20] in told for mark in MARKS)
    assert len(response.content) < 1000
    assert response.headers["cache-control"] == "no-store"
    if response.headers.get("content-type") == JSON:
        assert not any(name.startswith("grpc-") for name in response.headers)
