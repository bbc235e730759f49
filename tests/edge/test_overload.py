"""More than the edge can hold, and a gateway that fails though it says it is well."""

import contextlib
import functools
import http.client
import pathlib
import re
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.edge import Settings, envoy_config
from dermserve.local import Stack
from dermserve.local.child import Child
from dermserve.local.edge import envoy
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.edge.envoys import CLASSIFY, ask, gateway_of, run

FAILURES = 5
"""In a row, after which the configuration sets a gateway aside."""
_HEALTH = "/grpc.health.v1.Health/Check"
MOST = 3
"""Requests at once that a gateway gets here."""
ENOUGH = 20
"""Answers in a row that all came from the one of two gateways, and not by chance."""


def test_out_of_memory_it_refuses_new_requests_and_says_so(gateway: Stack, store: pathlib.Path) -> None:
    with run(gateway, store, heap_bytes=1_000_000) as edge:
        ends = time.monotonic() + 100
        for path, body in (("/v1/models", None), (CLASSIFY, b"x")):
            while (response := ask(edge.url, path, body=body)).status_code != 503:
                assert time.monotonic() < ends, response.text  # It looks at its memory four times a second.
            assert response.json()["details"][0]["reason"] == "UNAVAILABLE"  # Without an id: it got none yet.
            assert response.headers["cache-control"] == "no-store"
            assert edge.child.died() is None


def test_many_large_photos_at_once_are_each_answered(gateway: Stack, store: pathlib.Path) -> None:
    """As JSON in memory they were too many: Envoy ended them, and told HTTP/1 callers nothing."""
    photo = b"\xff\xd8\xff" + bytes(9_000_000)
    with run(gateway, store) as edge, ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, edge.url, CLASSIFY, body=photo) for _ in range(12)]
        reasons = [one.result().json()["details"][0]["reason"] for one in answers]
    assert set(reasons) <= {"UNDECODABLE_IMAGE", "OVERLOADED"}
    assert reasons.count("UNDECODABLE_IMAGE") > 6


def test_a_connection_too_many_is_closed_and_the_others_are_served(gateway: Stack, store: pathlib.Path) -> None:
    with run(gateway, store, max_connections=2) as edge, contextlib.ExitStack() as stack:
        host, port = edge.url.removeprefix("http://").split(":")
        held = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(3)]
        # Not always the third: each is taken by the thread that the kernel chooses.
        (closed,), _, _ = select.select(held, [], [], 60)
        assert closed.recv(1) == b""
        for served in held:
            if served is not closed:
                served.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert served.recv(12) == b"HTTP/1.1 200"


def test_a_connection_ends_after_a_time_with_an_answer_that_says_so(gateway: Stack, store: pathlib.Path) -> None:
    """So callers find the edges that are new, and have left one before it stops."""
    with run(gateway, store, connection_seconds=1) as edge:
        connection, ends = (
            http.client.HTTPConnection(edge.url.removeprefix("http://"), timeout=60),
            time.monotonic() + 60,
        )
        with contextlib.closing(connection):
            connection.connect()
            connection.auto_open = False  # or it would connect anew by itself
            last = None
            while last != "close":
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                last = response.getheader("connection")
                assert time.monotonic() < ends


class _Gateway(classifier_pb2_grpc.ClassifierServicer):
    """A gateway that says it is well, and answers or fails."""

    def __init__(self, fails: grpc.StatusCode | None = None) -> None:
        self.fails = fails
        self.asked = 0

    def ListModels(self, request: classifier_pb2.ListModelsRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        self.asked += 1
        if self.fails:
            context.abort(self.fails, "not now")
        return classifier_pb2.ListModelsResponse()


@contextlib.contextmanager
def _before(ports: list[int], folder: pathlib.Path) -> Iterator[str]:
    """Envoy with the edge's configuration, but for the addresses of its gateways, which no name here stands for."""
    many = {"requests_per_minute": 600_000, "burst": 10_000}
    settings = Settings(gateway="127.0.0.1:1", listen="127.0.0.1:0", admin="127.0.0.1:0", **many)  # type: ignore[arg-type]
    config = yaml.load(envoy_config(settings)["envoy.yaml"], yaml.CSafeLoader)
    places = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    for cluster in config["static_resources"]["clusters"]:
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": one}} for one in places]}]
        if cluster["name"] == "gateway":
            cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = MOST
    (folder / "envoy.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
    command = [str(envoy()), "-c", str(folder / "envoy.yaml"), "--admin-address-path", str(folder / "admin")]
    ready = re.compile(r"all dependencies initialized\. starting workers")
    child = Child([*command, "--disable-hot-restart"], name="edge", log=lambda line: None, ready=ready)
    try:
        child.wait_ready(timeout=200)
        listeners = ask(f"http://{(folder / 'admin').read_text()}", "/listeners?format=json").json()
        place = listeners["listener_statuses"][0]["local_address"]["socket_address"]
        yield f"http://{place['address']}:{place['port_value']}"
    finally:
        child.stop(grace=10)


def test_a_gateway_that_fails_and_says_it_is_well_is_set_aside(tmp_path: pathlib.Path) -> None:
    sick, well = _Gateway(grpc.StatusCode.UNAVAILABLE), _Gateway()
    with gateway_of(sick) as one, gateway_of(well) as other, _before([one, other], tmp_path) as url:
        codes: list[int] = []
        ends = time.monotonic() + 200
        while codes[-ENOUGH:] != [200] * ENOUGH:  # Envoy gathers such changes for a second.
            codes.append(ask(url, "/v1/models").status_code)
            assert time.monotonic() < ends, (sick.asked, well.asked)
        assert _ejections(tmp_path) == 1
    assert sick.asked == codes.count(503) >= FAILURES


def test_no_caller_can_have_a_gateway_set_aside(tmp_path: pathlib.Path) -> None:
    """With refused requests, deadlines that end, or what the health service, which needs no key, does not take."""
    one, other = _Gateway(), _Gateway()
    with gateway_of(one) as first, gateway_of(other) as second, _before([first, second], tmp_path) as url:
        for status in (
            *(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED),
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            one.fails = other.fails = status
            for _ in range(2 * FAILURES):
                ask(url, "/v1/models")
        for method, kind, body in (
            ("GET", "application/grpc", None),
            ("PUT", "application/grpc", b""),
            ("POST", "text/plain", b"x"),
            ("POST", "application/grpc", b"\0\0\0\0\0"),
            ("POST", "application/grpc", b"\0\xff\xff\xff\xff"),
        ):
            asked = functools.partial(ask, url, _HEALTH, method=method, body=body, content_type=kind)
            with ThreadPoolExecutor(2 * FAILURES) as pool:
                assert all(one.result() is not None for one in [pool.submit(asked) for _ in range(2 * FAILURES)])
        assert _ejections(tmp_path) == 0


def test_health_checks_of_anyone_take_no_room_from_requests(tmp_path: pathlib.Path) -> None:
    """As many that are never sent whole as requests may be in progress; and none that lasts."""
    with gateway_of(_Gateway()) as port, _before([port], tmp_path) as url, contextlib.ExitStack() as stack:
        place = url.removeprefix("http://")
        head = f"POST {_HEALTH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n"
        host, number = place.split(":")
        ends = time.monotonic() + 100
        while _stat(tmp_path, "cluster.health.upstream_rq_active") < MOST:  # each lasts five seconds
            assert time.monotonic() < ends
            for _ in range(MOST + 1):
                stack.enter_context(socket.create_connection((host, int(number)), 60)).sendall(head.encode())
        assert ask(url, "/v1/models").status_code == 200
        with grpc.insecure_channel(place) as channel, pytest.raises(grpc.RpcError) as raised:
            next(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=100))
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def _ejections(folder: pathlib.Path) -> int:
    return _stat(folder, "cluster.gateway.outlier_detection.ejections_enforced_total")


def _stat(folder: pathlib.Path, name: str) -> int:
    return int(ask(f"http://{(folder / 'admin').read_text()}", f"/stats?filter=^{name}$").text.rpartition(": ")[2])
