"""What proxies say that know nothing of gRPC."""

import pytest

from dermserve.client import (
    AccessDenied,
    Client,
    DeadlineExceeded,
    DermserveError,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    Retry,
    TooLarge,
    Unavailable,
)
from tests.client.http2 import answering
from tests.client.test_classify_many import several

ONCE = Retry(max_attempts=1)


@pytest.mark.parametrize(
    ("status", "error_class", "words"),
    [
        (400, InvalidRequest, "HTTP 400"),
        (401, AccessDenied, "credentials"),
        (403, AccessDenied, "HTTP 403"),
        (404, NotFound, "no route"),
        (405, NotFound, "pass gRPC on"),
        (407, AccessDenied, "proxy credentials"),
        (408, DeadlineExceeded, "gave up"),
        (413, TooLarge, "proxy's limit"),
        (415, NotFound, "pass gRPC on"),
        (429, Overloaded, "too many requests"),
        (431, InvalidRequest, "HTTP 431"),
        (500, Internal, "HTTP 500"),
        (502, Unavailable, "can't reach the gateway"),
        (503, Unavailable, "can't reach the gateway"),
        (504, Unavailable, "in time"),
        (520, Unavailable, "HTTP 520"),
    ],
)
def test_a_proxys_http_status_becomes_the_matching_error(status, error_class, words):
    with answering(status) as target, Client(target, retry=ONCE) as client, pytest.raises(DermserveError) as caught:
        client.classify(b"1", model="m", request_id="mine")
    assert type(caught.value) is error_class
    assert words in caught.value.message
    assert target in caught.value.message
    assert caught.value.request_id == "mine"
    assert caught.value.reason == ("MESSAGE_TOO_LARGE" if status == 413 else f"HTTP_{status}")


def test_a_web_page_is_no_gateway():
    with (
        answering(200) as target,
        Client(target, retry=ONCE) as client,
        pytest.raises(Internal, match="not a dermserve"),
    ):
        client.models()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("status", "error_class"), [(413, TooLarge), (401, AccessDenied), (502, Unavailable)])
def test_in_a_stream_every_photo_gets_it(kind, status, error_class):
    with answering(status) as target:
        answers = list(several(kind, target, [b"1", b"2", b"3"]))
    assert [type(answer.error) for answer in answers] == [error_class] * 3
