"""What proxies say that know nothing of gRPC."""

import pytest

from dermserve.client import (
    AccessDenied,
    Client,
    DermserveError,
    Internal,
    InvalidRequest,
    Overloaded,
    TooLarge,
    Unavailable,
)
from tests.client.http2 import answering
from tests.client.test_classify_many import several


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (400, InvalidRequest),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, InvalidRequest),
        (407, AccessDenied),
        (413, TooLarge),
        (415, InvalidRequest),
        (429, Overloaded),
        (500, Unavailable),
        (502, Unavailable),
        (520, Unavailable),
    ],
)
def test_a_proxys_http_status_becomes_the_matching_error(status, error_class):
    with answering(status) as target, Client(target, attempts=1) as client, pytest.raises(DermserveError) as caught:
        client.classify(b"1", model="m", request_id="mine")
    assert type(caught.value) is error_class
    assert f"HTTP {status}" in caught.value.message
    assert target in caught.value.message
    assert caught.value.request_id == "mine"
    assert caught.value.reason == ("MESSAGE_TOO_LARGE" if status == 413 else f"HTTP_{status}")


def test_a_web_page_is_no_gateway():
    with (
        answering(200) as target,
        Client(target, attempts=1) as client,
        pytest.raises(Internal, match="not a dermserve"),
    ):
        client.models()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("status", "error_class"), [(413, TooLarge), (401, AccessDenied), (502, Unavailable)])
def test_of_many_photos_every_one_gets_it(kind, status, error_class):
    with answering(status) as target:
        answers = list(several(kind, target, [b"1", b"2", b"3"]))
    assert [type(answer.error) for answer in answers] == [error_class] * 3
