"""What the synchronous and the asyncio client share: options, and what each call sends and makes of its answer."""

import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from dermserve.client._batch import FIRST_ALONE, Batch, pause_before_retry
from dermserve.client._catalog import Model, read_model
from dermserve.client._connection import DEFAULT_DEADLINE, DEFAULT_TARGET, TLS, Connection, Retry, check_deadline
from dermserve.client._errors import DeadlineExceeded, DermserveError, FailedCall, Unavailable, read_call
from dermserve.client._prediction import Prediction, read_prediction
from dermserve.client._request import TtaMode, make_request_id, preparer
from dermserve.v1 import classifier_pb2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A unary call, before it is made."""

    method: str
    """Of the stub."""
    request: Any
    """Its message."""
    end: float
    """When its time is over, in monotonic seconds."""
    read: Callable[[Any], T]
    """Makes a value of the answer."""
    request_id: str | None = None
    """Sent along."""
    patient: bool = False
    """Whether to retry an overloaded gateway after its `retry_after`."""

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    def pause(self, error: DermserveError) -> float | None:
        """Return the seconds after which to try again; None for never."""
        return pause_before_retry(error, left=self.left) if self.patient else None


class Base:
    """Everything of a client that neither waits nor sends.

    Arguments and errors are those of `Client`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: TLS | None = None,
        deadline: float = DEFAULT_DEADLINE,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._connection = Connection(target=target, tls=tls, deadline=deadline, retry=retry, metadata=metadata)
        self._credentials = self._connection.credentials()
        self._connect()

    def _connect(self) -> None:
        """Open the channel, where that can be done outside an event loop."""

    def _open_channel(self, api: Any) -> Any:
        """Open a channel of `grpc` or `grpc.aio`."""
        options, target = self._connection.options(), self._connection.way.target
        if self._credentials is None:
            return api.insecure_channel(target, options=options)
        return api.secure_channel(target, self._credentials, options=options)

    def _classify_call(
        self, *, deadline: float | None, request_id: str | None, retry_overloaded: bool, **asked: Any
    ) -> Callable[[bytes], Call[Prediction]]:
        """Check a call's arguments; return what makes it of a photo."""
        prepare, request_id = preparer(**asked), make_request_id(request_id)
        end = self._end(deadline)
        return lambda image: Call("Classify", prepare(image), end, read_prediction, request_id, retry_overloaded)

    def _alone_call(self, request: classifier_pb2.ClassifyRequest, deadline: float) -> Call[Prediction]:
        return Call("Classify", request, self._end(deadline), read_prediction, make_request_id(None))

    def _models_call(self, deadline: float | None) -> Call[tuple[Model, ...]]:
        def read(response: classifier_pb2.ListModelsResponse) -> tuple[Model, ...]:
            return tuple(read_model(model) for model in response.models)

        return Call("ListModels", classifier_pb2.ListModelsRequest(), self._end(deadline), read)

    def _model_call(self, name: str, deadline: float | None) -> Call[Model]:
        def read(response: classifier_pb2.GetModelResponse) -> Model:
            return read_model(response.model)

        return Call("GetModel", classifier_pb2.GetModelRequest(name=name), self._end(deadline), read)

    def _batch(
        self,
        *,
        model: str,
        version: int | None,
        label: str | None,
        tta: TtaMode | str,
        deadline: float | None,
        in_flight: int,
        retry_overloaded: bool,
    ) -> Batch:
        return Batch(
            preparer(model=model, version=version, label=label, tta=tta),
            in_flight=in_flight,
            deadline=check_deadline(self._connection.deadline if deadline is None else deadline),
            retry_overloaded=retry_overloaded,
            clock=time.monotonic,
        )

    def _failure(self, error: Any, request_id: str | None = None) -> DermserveError:
        """Make an error from a grpc.RpcError of either API."""
        call: FailedCall = error
        connection = self._connection
        return read_call(call, target=connection.target, request_id=request_id, proxy=connection.way.proxy)

    def _silence(self, seconds: float) -> DermserveError:
        """Make the error of a stream that sends no answer in time."""
        way = self._connection.way.proxy
        through = f" through the proxy {way}" if way else ""
        return DeadlineExceeded(
            f"no answer from {self._connection.target}{through} within {seconds:g} s: "
            "allow more time, or ask for fewer views"
        )

    def _cut_short(self) -> DermserveError:
        """Make the error of a stream that ended too early."""
        return Unavailable(f"{self._connection.target} ended the stream before answering every photo")

    def _end(self, deadline: float | None) -> float:
        return time.monotonic() + check_deadline(self._connection.deadline if deadline is None else deadline)


def first_alone(photos: Iterable[Any] | Any) -> float:
    """Return the seconds to wait for the first answer before taking more photos; 0 for a collection."""
    return 0.0 if isinstance(photos, Sized) else FIRST_ALONE
