"""gRPC through the edge, as it is and as browsers speak it."""

import struct
from collections.abc import Iterator

import pytest
import requests

from dermserve.client import Client, DermserveError, TooLarge
from dermserve.local.edge import Edge
from dermserve.v1 import classifier_pb2
from tests.edge.envoys import MODEL

SERVICE = "/dermserve.v1.Classifier"
_TRAILERS = 0x80


def _frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        flags, length = struct.unpack(">BI", data[:5])
        yield flags, data[5 : 5 + length]
        data = data[5 + length :]


def _web(edge: Edge, method: str, *messages: bytes) -> tuple[list[bytes], dict[str, str], requests.Response]:
    response = requests.post(
        f"{edge.url}{SERVICE}/{method}",
        b"".join(_frame(message) for message in messages),
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": "https://clinic.example"},
        timeout=100,
    )
    frames = list(_frames(response.content))
    trailers = b"".join(data for flags, data in frames if flags & _TRAILERS).decode()
    named = dict(line.split(":", 1) for line in trailers.split("\r\n") if line)
    return [data for flags, data in frames if not flags & _TRAILERS], named, response


def _request(photo: bytes, model: str = MODEL) -> classifier_pb2.ClassifyRequest:
    return classifier_pb2.ClassifyRequest(model=classifier_pb2.ModelSelector(name=model), image=photo)


def test_the_client_works_through_it(edge: Edge, photo: bytes) -> None:
    with Client(edge.url.removeprefix("http://"), deadline=300) as client:
        assert client.classify(photo, model=MODEL, tta="full").views_used == 10
        answers = list(client.classify_many([(str(index), photo) for index in range(5)], model=MODEL))
        assert sorted(answer.id for answer in answers) == list("01234")
        with pytest.raises(DermserveError) as raised:
            client.classify(b"no image", model=MODEL)
        assert raised.value.reason == "UNSUPPORTED_FORMAT"


def test_a_photo_that_the_edge_finds_too_large_is_said_to_be_so(tight: Edge) -> None:
    with Client(tight.url.removeprefix("http://"), deadline=300) as client, pytest.raises(TooLarge) as raised:
        client.classify(bytes(1_000_000), model=MODEL)
    assert raised.value.reason == "IMAGE_TOO_LARGE"


def test_a_browser_asks_for_one_photo(edge: Edge, photo: bytes) -> None:
    (message,), trailers, response = _web(edge, "Classify", _request(photo).SerializeToString())
    assert classifier_pb2.ClassifyResponse.FromString(message).model == MODEL
    assert trailers["grpc-status"] == "0"
    assert response.headers["access-control-allow-origin"] == "https://clinic.example"


def test_a_browser_is_told_what_is_wrong(edge: Edge) -> None:
    messages, trailers, response = _web(edge, "Classify", _request(b"no image").SerializeToString())
    told = {**response.headers, **trailers}
    assert not messages
    assert told["grpc-status"] == "3"
    assert told["grpc-status-details-bin"]


def test_a_browser_sends_many_photos_at_once(edge: Edge, photo: bytes) -> None:
    asked = [
        classifier_pb2.ClassifyStreamRequest(id=name, request=_request(data)).SerializeToString()
        for name, data in (("good", photo), ("bad", b"no image"))
    ]
    messages, trailers, _ = _web(edge, "ClassifyStream", *asked)
    answers = {answer.id: answer for answer in map(classifier_pb2.ClassifyStreamResponse.FromString, messages)}
    assert answers["good"].response.model == MODEL
    assert answers["bad"].error.code == 3
    assert trailers["grpc-status"] == "0"


def test_other_services_are_not_reached(edge: Edge) -> None:
    for path in (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/tensorflow.serving.PredictionService/Predict",
    ):
        assert requests.post(edge.url + path, b"", timeout=100).status_code == 404
