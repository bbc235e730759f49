"""Every error of the gateway, as HTTP says it."""

import pathlib
from collections.abc import Iterator

import grpc
import pytest
from grpc_status import rpc_status

from dermserve.client import Client, Unavailable
from dermserve.gateway.errors import STATUSES, GatewayError
from dermserve.gateway.rpc import to_status
from dermserve.local.edge import Edge
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.edge.envoys import CLASSIFY, ask, gateway_of, run

HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def _made(reason: str) -> GatewayError:
    error = GatewayError(reason, f"words of {reason}")
    error.retry_after = 2.0 if reason == "OVERLOADED" else None
    return error


class _Failing(classifier_pb2_grpc.ClassifierServicer):
    """Fails for the reason that is the model's name."""

    def Classify(  # noqa: N802
        self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ClassifyResponse:
        status = to_status(_made(request.model.name), request_id="one")
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError

    ClassifyPhoto = Classify


@pytest.fixture(scope="module")
def failing(store: pathlib.Path) -> Iterator[Edge]:
    with gateway_of(_Failing()) as port, run(f"127.0.0.1:{port}", store) as edge:
        yield edge


@pytest.mark.parametrize("reason", STATUSES)
def test_each_error_keeps_its_reason_and_gets_its_http_status(failing: Edge, reason: str) -> None:
    response = ask(failing.url, f"/v1/models/{reason}:classify", body=b"photo")
    assert response.status_code == HTTP[STATUSES[reason].name]
    body = response.json()
    assert body["code"] == STATUSES[reason].value[0]
    assert body["message"] == f"words of {reason}"
    assert body["details"][0]["reason"] == reason
    told = [int(one["retryDelay"].rstrip("s")) for one in body["details"] if "retryDelay" in one]
    retries = response.headers.get("retry-after")
    assert retries == (str(*told or [1]) if response.status_code in {429, 503} else None)
    assert response.headers["cache-control"] == "no-store"


def test_without_a_gateway_it_says_that_none_can_answer(store: pathlib.Path) -> None:
    with run("127.0.0.1:1", store) as edge:
        response = ask(edge.url, CLASSIFY, body=b"photo")
        assert response.status_code == 503
        assert response.json()["details"][0]["reason"] == "UNAVAILABLE"
        assert ask(edge.url, "/healthz").status_code == 503
        with Client(edge.url.removeprefix("http://"), attempts=1) as client, pytest.raises(Unavailable) as raised:
            client.models()
        assert "no gateway can answer" in raised.value.message
        assert ask(edge.url, "/app/").status_code == 200
