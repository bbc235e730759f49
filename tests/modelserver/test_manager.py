"""The manager, the batcher and the services go on whatever a version, a batch or a call does."""

import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from dermserve.modelserver._protos import predict_pb2
from dermserve.modelserver.batching import Batcher, BatchScheduler
from dermserve.modelserver.batching_parameters import BatchingParameters
from dermserve.modelserver.errors import ServingError, invalid_argument, not_found
from dermserve.modelserver.manager import LoadOptions, Manager
from dermserve.modelserver.services import PredictionService, Slots
from dermserve.modelserver.states import Monitor, State
from dermserve.modelserver.tensors import Tensor, Value, parse, proto_of
from tests.modelserver.server_process import wait_until

NOWHERE = pathlib.Path("/nowhere")
ONCE = LoadOptions(threads=0, retries=0, retry_interval_s=0.0)


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

    def __call__(self, model: str, version: int, path: pathlib.Path) -> Any:
        self.attempts.append(version)
        outcome = self.versions[f"v{version}"]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Managed:
    def __init__(self, loader: FakeLoader, options: LoadOptions = ONCE) -> None:
        self.monitor = Monitor()
        self.manager = Manager(load=loader, options=options)
        self.manager.subscribe(self.monitor)
        self.manager.start(initial_threads=1)
        self.manager.settle()

    def want(self, *versions: int) -> None:
        self.manager.aspire("m", dict.fromkeys(versions, NOWHERE))

    def becomes(self, states: dict[int, State]) -> None:
        wait_until(lambda: {number: one.state for number, one in self.monitor.versions("m").items()} == states)


@pytest.fixture
def managed(request: pytest.FixtureRequest) -> Iterator[Managed]:
    found = Managed(*request.param)
    yield found
    found.manager.stop()


BROKEN = FakeLoader(v1=FakeServable(), v2=RuntimeError("a secret of the inside"), v3=FakeServable())


@pytest.mark.parametrize("managed", [(BROKEN,)], indirect=True)
def test_a_fault_in_loading_ends_that_version_alone(managed: Managed, caplog: pytest.LogCaptureFixture) -> None:
    managed.want(1, 2)
    managed.becomes({2: State.END, 1: State.AVAILABLE})
    error = managed.monitor.versions("m")[2].error
    assert error is not None
    assert (error.code, error.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "a secret of the inside" in caplog.text
    managed.want(3)
    managed.becomes({3: State.AVAILABLE, 2: State.END, 1: State.END})


STUBBORN = FakeLoader(v1=FakeServable(fault=invalid_argument("no")), v2=FakeServable())


@pytest.mark.parametrize("managed", [(STUBBORN,)], indirect=True)
def test_a_fault_in_unloading_does_not_stop_the_next_load(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: State.AVAILABLE})
    managed.want(2)
    managed.becomes({2: State.AVAILABLE, 1: State.END})


LENT = FakeLoader(v1=FakeServable(), v2=FakeServable())


@pytest.mark.parametrize("managed", [(LENT,)], indirect=True)
def test_what_is_lent_is_not_unloaded_before_it_is_given_back(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: State.AVAILABLE})
    with managed.manager.borrow("m", version=None) as (version, servable):
        assert version == 1
        managed.want(2)
        managed.becomes({2: State.AVAILABLE, 1: State.UNLOADING})
        assert not servable.closed.is_set()
        with managed.manager.borrow("m", version=None) as (newest, _):
            assert newest == 2
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 1\)"):
            managed.manager.borrow("m", version=1).__enter__()
    managed.becomes({2: State.AVAILABLE, 1: State.END})
    assert servable.closed.is_set()


RETRIED = FakeLoader(v1=not_found("not yet"), v2=FakeServable())


@pytest.mark.parametrize("managed", [(RETRIED, LoadOptions(threads=0, retries=3, retry_interval_s=0))], indirect=True)
def test_a_load_is_retried_and_not_again_while_the_version_stays(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: State.END})
    assert RETRIED.attempts == [1] * 4
    managed.want(1)
    managed.want(1, 2)
    managed.becomes({2: State.AVAILABLE, 1: State.END})
    assert RETRIED.attempts == [1] * 4 + [2]


PATIENT = FakeLoader(v1=not_found("never"), v2=FakeServable())


@pytest.mark.parametrize(
    "managed", [(PATIENT, LoadOptions(threads=2, retries=99, retry_interval_s=0.01))], indirect=True
)
def test_with_load_threads_a_version_that_is_not_wanted_any_more_is_given_up(managed: Managed) -> None:
    managed.want(1)
    managed.becomes({1: State.LOADING})
    managed.want(2)
    managed.becomes({2: State.AVAILABLE, 1: State.END})


def rows(*numbers: float) -> Tensor:
    import numpy as np

    return parse(proto_of(Value(1, (len(numbers),), np.array(numbers, "<f4").tobytes())), alias="x")


def test_a_fault_in_a_batch_fails_its_requests_and_no_others() -> None:
    faults: list[Exception | None] = [RuntimeError("a secret"), None]

    def run(feeds: Any, *, fetches: Any, timeout_ms: int) -> list[Value]:
        fault = faults.pop(0)
        if fault:
            raise fault
        return [feeds["x"].value() for _ in fetches]

    scheduler = BatchScheduler(threads=1)
    batcher = Batcher(run, scheduler=scheduler, parameters=BatchingParameters())
    with pytest.raises(ServingError, match="INTERNAL: internal error"):
        batcher({"x": rows(1.0)}, fetches=["y"], timeout_ms=0)
    assert batcher({"x": rows(1.0, 2.0)}, fetches=["y"], timeout_ms=0) == [rows(1.0, 2.0).value()]
    batcher.close()
    scheduler.stop()


def test_stopping_fails_the_requests_that_wait_for_a_batch() -> None:
    scheduler = BatchScheduler(threads=1)
    patient = BatchingParameters(batch_timeout_s=1e6)
    batcher = Batcher(lambda feeds, **_: [], scheduler=scheduler, parameters=patient)
    caught: list[ServingError] = []

    def ask() -> None:
        try:
            batcher({"x": rows(1.0)}, fetches=["y"], timeout_ms=0)
        except ServingError as error:
            caught.append(error)

    waiter = threading.Thread(target=ask, daemon=True)
    waiter.start()
    scheduler.stop()  # Whether it waits by now or comes after this.
    waiter.join(10)
    assert [error.code for error in caught] == [grpc.StatusCode.UNAVAILABLE]


class FakeContext:
    """A call that can be aborted, and is never short of time."""

    def time_remaining(self) -> None:
        return None

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise ServingError(code, details)


class FaultyCore:
    def borrow(self, spec: Any) -> Any:
        raise RuntimeError("a secret of the inside")


def test_a_fault_of_the_server_is_internal_and_keeps_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    service = PredictionService(FaultyCore(), slots=Slots(1))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    for _ in range(2):  # Its slot is free again.
        with pytest.raises(ServingError, match=r"INTERNAL: internal error") as caught:
            service.Predict(request, FakeContext())
        assert caught.value.code is grpc.StatusCode.INTERNAL
    assert "a secret of the inside" in caplog.text
