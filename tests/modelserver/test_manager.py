"""The manager and the services go on whatever a version or a call does."""

import argparse
import pathlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from dermserve.modelserver.errors import ServingError, invalid_argument, not_found
from dermserve.modelserver.flags import parse_flags
from dermserve.modelserver.manager import Manager
from dermserve.modelserver.server import Services
from dermserve.modelserver.versions import list_models
from dermserve.tfserving.v1 import serving_pb2
from dermserve.tfserving.v1.serving_pb2 import ModelVersionStatus as Status
from tests.modelserver.server_process import wait_until


def flags(**changes: float) -> argparse.Namespace:
    once = {"file_system_poll_wait_seconds": 0.02, "max_num_load_retries": 0, "load_retry_interval_micros": 0}
    return argparse.Namespace(**{**vars(parse_flags([])), **once, **changes})


class FakeServable:
    def __init__(self, *, fault: Exception | None = None) -> None:
        self.closed = threading.Event()
        self._fault = fault

    def close(self) -> None:
        self.closed.set()
        if self._fault:
            raise self._fault


class FakeLoader:
    """Loads what it is told to, or raises it."""

    def __init__(self, **versions: FakeServable | Exception) -> None:
        self.versions = versions
        self.attempts: list[int] = []

    def __call__(self, path: pathlib.Path) -> Any:
        self.attempts.append(int(path.name))
        outcome = self.versions[f"v{path.name}"]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Managed:
    """A manager of one model `m`, beside a good one that lets it start."""

    def __init__(self, base: pathlib.Path, loader: FakeLoader, flags: argparse.Namespace) -> None:
        self._base = base
        self.stop = threading.Event()
        loader.versions["v99"] = FakeServable()
        (base / "good" / "99").mkdir(parents=True)
        (base / "m").mkdir()
        self.manager = Manager(load=loader, flags=flags, stop=self.stop)
        self.manager.start(list_models(good=str(base / "good")))
        loader.attempts.clear()
        threading.Thread(target=self._reload, daemon=True).start()

    def _reload(self) -> None:
        models = list_models(good=str(self._base / "good"), m=str(self._base / "m"))
        models.config[1].model_version_policy.all.SetInParent()
        try:
            self.manager.reload(models)
        except ServingError as error:
            self.reload_error = error

    def want(self, *versions: int) -> None:
        """Have these versions in the base path, from one look at it to the next."""
        beside = self._base / "beside"
        beside.mkdir()
        for version in versions:
            (beside / str(version)).mkdir()
        (self._base / "m").rename(self._base / "old")
        beside.rename(self._base / "m")
        shutil.rmtree(self._base / "old")

    def becomes(self, states: dict[int, int]) -> None:
        wait_until(lambda: {one.number: one.state for one in self.manager.versions("m")} == states)


@pytest.fixture
def managed(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Managed]:
    loader, given = request.param if isinstance(request.param, tuple) else (request.param, flags())
    found = Managed(tmp_path, loader, given)
    yield found
    found.stop.set()
    found.manager.stop()


BROKEN = FakeLoader(v1=FakeServable(), v2=RuntimeError("a secret of the inside"), v3=FakeServable())


@pytest.mark.parametrize("managed", [BROKEN], indirect=True)
def test_a_fault_in_loading_ends_that_version_alone(managed: Managed, caplog: pytest.LogCaptureFixture) -> None:
    managed.want(1, 2)
    managed.becomes({2: Status.STATE_END, 1: Status.STATE_AVAILABLE})
    error = managed.manager.versions("m")[0].error
    assert error is not None
    assert (error.code, error.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "a secret of the inside" in caplog.text
    managed.want(3)
    managed.becomes({3: Status.STATE_AVAILABLE, 2: Status.STATE_END, 1: Status.STATE_END})


STUBBORN = FakeLoader(v1=FakeServable(fault=invalid_argument("no")), v2=FakeServable())


@pytest.mark.parametrize("managed", [STUBBORN], indirect=True)
def test_a_fault_in_unloading_does_not_stop_the_next_load(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: Status.STATE_AVAILABLE})
    managed.want(2)
    managed.becomes({2: Status.STATE_AVAILABLE, 1: Status.STATE_END})


PATIENT = FakeLoader(v1=not_found("never"), v2=FakeServable())
FOR_EVER = flags(num_load_threads=1, max_num_load_retries=9999, load_retry_interval_micros=10_000)


@pytest.mark.parametrize("managed", [(PATIENT, FOR_EVER)], indirect=True)
def test_with_load_threads_a_version_that_is_not_wanted_any_more_is_given_up(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: Status.STATE_LOADING})
    managed.want(2)
    managed.becomes({2: Status.STATE_AVAILABLE, 1: Status.STATE_END})


class FakeContext:
    """A call that can be aborted, and is never short of time."""

    def time_remaining(self) -> None:
        return None

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise ServingError(code, details)


class FakeDetails(NamedTuple):
    method: str
    invocation_metadata: tuple[Any, ...]


class FaultyManager:
    def borrow(self, spec: Any) -> Any:
        raise RuntimeError("a secret of the inside")


def test_a_fault_of_the_server_is_internal_and_keeps_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    details = FakeDetails("/tensorflow.serving.PredictionService/Predict", ())
    answer = Services(FaultyManager(), most=1).service(details).unary_unary
    request = serving_pb2.PredictRequest()
    request.model_spec.name = "m"
    for _ in range(2):  # Its slot is free again.
        with pytest.raises(ServingError, match=r"INTERNAL: internal error") as caught:
            answer(request, FakeContext())
        assert caught.value.code is grpc.StatusCode.INTERNAL
    assert "a secret of the inside" in caplog.text


NONE = FakeLoader()


@pytest.mark.parametrize("managed", [NONE], indirect=True)
def test_a_reload_that_waits_for_a_version_is_let_go_when_the_server_stops(managed: Managed) -> None:
    managed.stop.set()
    wait_until(lambda: hasattr(managed, "reload_error"))
    assert managed.reload_error.code is grpc.StatusCode.UNAVAILABLE
