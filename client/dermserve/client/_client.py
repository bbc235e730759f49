"""The synchronous client."""

import time
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from dermserve.client._answer import Answer
from dermserve.client._base import Base, Call
from dermserve.client._batch import DEFAULT_IN_FLIGHT, Item
from dermserve.client._catalog import Model
from dermserve.client._many import Many
from dermserve.client._prediction import Prediction
from dermserve.client._request import Photo, TtaMode, read_photo
from dermserve.v1 import classifier_pb2_grpc

T = TypeVar("T")


class Client(Base):
    """Asks a gateway, from any number of threads. Use it as a context manager, or call `close`.

    Args:
        target: HOST:PORT, or any gRPC target (dns:///name:port balances over all addresses of the name).
        tls: transport security; plaintext when None.
        deadline: seconds a call may take unless it says otherwise.
        retry: when gRPC sends a call again by itself.
        metadata: sent with every call, for example a token that an edge proxy asks for.

    Raises:
        ValueError: an option can't be.
    """

    def _connect(self) -> None:
        self._channel: grpc.Channel = self._open_channel(grpc)
        self._stub: Any = classifier_pb2_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and cancel the calls in flight."""
        self._channel.close()

    def classify(
        self,
        photo: Photo,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        tta: TtaMode | str = TtaMode.NONE,
        deadline: float | None = None,
        request_id: str | None = None,
        retry_overloaded: bool = False,
    ) -> Prediction:
        """Classify one photo.

        Args:
            photo: bytes of a JPEG, PNG or WebP file, or the path of one.
            model: model name.
            version: version to ask; the latest when neither this nor `label` is given.
            label: label to ask, for example "stable".
            tta: "none", "full" or "adaptive", or a TtaMode.
            deadline: seconds the call may take; the client's default when None.
            request_id: 1 to 64 characters of A-Z a-z 0-9 . _ - to find the request by in logs; made when None.
            retry_overloaded: whether to wait as long as an overloaded gateway says and try again, within the deadline.

        Raises:
            DermserveError: the photo can't be classified, or not now.
            ValueError: an argument can't be.
        """
        make = self._classify_call(
            model=model, version=version, label=label, tta=tta, deadline=deadline, request_id=request_id,
            retry_overloaded=retry_overloaded,
        )  # fmt: skip
        return self._ask(make(read_photo(photo)))

    def classify_many(
        self,
        photos: Iterable[Item],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        tta: TtaMode | str = TtaMode.NONE,
        deadline: float | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        retry_overloaded: bool = True,
    ) -> Generator[Answer, None, None]:
        """Classify many photos over one stream, and yield an answer for each as it comes, in any order.

        Photos are taken and read in a thread of their own, while there is room for them: one that comes late holds no
        answer back, and an iterator may wait for the answers to its earlier photos. A stream that breaks under way is
        opened again. Nothing is raised for a photo that fails: its answer holds the error.

        Args:
            photos: photos, or pairs of an id and a photo. What it raises is raised after the answers to those before.
            model: model name.
            version: version to ask; the latest when neither this nor `label` is given.
            label: label to ask, for example "stable".
            tta: "none", "full" or "adaptive", or a TtaMode.
            deadline: seconds without any answer after which the photos in flight are given up; the client's when None.
            in_flight: photos sent and not answered, at most.
            retry_overloaded: whether a photo that an overloaded gateway refuses is sent again when that says, for up to
                `deadline` seconds.

        Raises:
            ValueError: an argument can't be.
        """
        batch = self._batch(
            model=model, version=version, label=label, tta=tta, deadline=deadline, in_flight=in_flight,
            retry_overloaded=retry_overloaded,
        )  # fmt: skip
        return Many(self, self._stub, batch).answers(photos)

    def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """List the models the gateway serves, without their cards.

        Raises:
            DermserveError: no answer.
        """
        return self._ask(self._models_call(deadline))

    def model(self, name: str, *, deadline: float | None = None) -> Model:
        """Return one model, with the card of every version that can answer.

        Raises:
            NotFound: no such model.
            DermserveError: no answer.
        """
        return self._ask(self._model_call(name, deadline))

    def _ask(self, call: Call[T]) -> T:
        """Make a call; retry an overloaded one after the server's delay when `retry_overloaded` is set."""
        metadata = self._connection.call_metadata(call.request_id)
        while True:
            try:
                return call.read(getattr(self._stub, call.method)(call.request, timeout=call.left, metadata=metadata))
            except grpc.RpcError as error:
                failure = self._failure(error, call.request_id)
                pause = call.pause(failure)
                if pause is None:
                    raise failure from error
            time.sleep(pause)
