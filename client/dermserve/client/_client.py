"""The asyncio client, and the synchronous one made from it."""

import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import grpc

from dermserve.client._connection import DEFAULT_DEADLINE, DEFAULT_TARGET, TLS, Connection, check_deadline
from dermserve.client._errors import Overloaded
from dermserve.client._request import Item, Photo, TtaMode, make_request_id, preparer
from dermserve.client._values import Model, Prediction, read_model, read_prediction
from dermserve.client._waiting import Answer, Blocking, Many, OnLoop, blocking, blocking_generator, finish
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc


class _Base:
    """A channel to a gateway, and the options of its calls."""

    _waiter: ClassVar[type[Blocking | OnLoop]]

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: TLS | None = None,
        deadline: float = DEFAULT_DEADLINE,
        attempts: int = 4,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._connection = Connection(target=target, tls=tls, attempts=attempts, metadata=metadata)
        self._deadline = check_deadline(deadline)
        self._channel = self._connection.open()
        self._stub: Any = classifier_pb2_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    def _seconds(self, deadline: float | None) -> float:
        return self._deadline if deadline is None else check_deadline(deadline)

    def _end(self, deadline: float | None) -> float:
        return time.monotonic() + self._seconds(deadline)

    async def _ask(
        self, method: Any, request: Any, end: float, *, request_id: str | None = None, patient: bool = False,
        waiter: Blocking | OnLoop | Many | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Make a call; if `patient`, repeat it after the time that an overloaded gateway names, within the deadline."""
        waiter, own = waiter or self._waiter(), {} if request_id is None else {"x-request-id": request_id}
        metadata = (*self._connection.metadata.items(), *own.items())
        while True:
            timeout = end - time.monotonic()
            try:
                return await waiter.call(method, request, timeout=timeout, metadata=metadata, **options)
            except grpc.RpcError as error:
                failure = self._connection.failure(error, request_id)
                again = patient and (isinstance(failure, Overloaded) or failure.reason == "GATEWAY_STOPPING")
                pause = failure.retry_after
                if not again or pause is None or pause >= end - time.monotonic():
                    raise failure from error
            await waiter.sleep(pause)


class AsyncClient(_Base):
    """Calls a gateway from any event loop: `Client`, awaited. Use it as an async context manager, or await `close`.

    Arguments and errors are those of `Client`.
    """

    _waiter = OnLoop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel and cancel the calls in flight."""
        self._channel.close()

    async def classify(
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
            retry_overloaded: whether to try again after the time that an overloaded gateway names, within the deadline.

        Raises:
            DermserveError: the photo can't be classified, or not now.
            ValueError: an argument is not valid.
        """
        end = self._end(deadline)
        prepare, request_id = preparer(model=model, version=version, label=label, tta=tta), make_request_id(request_id)
        request = prepare(await self._waiter().read(photo))
        ask = self._ask(self._stub.Classify, request, end, request_id=request_id, patient=retry_overloaded)
        return read_prediction(await ask)

    def classify_many(
        self,
        photos: Iterable[Item],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        tta: TtaMode | str = TtaMode.NONE,
        deadline: float | None = None,
        in_flight: int = 4,
        retry_overloaded: bool = True,
    ) -> AsyncGenerator[Answer, None]:
        """Classify many photos, several at once, and yield an answer for each as it comes, in any order.

        A thread takes photos while fewer than `in_flight` are sent: a late photo delays no answer, and an iterator may
        wait for the answers to its earlier photos. A photo that fails raises nothing: its answer holds the error. If
        the gateway, or what is behind it, goes away after an answer, photos in flight are sent again until it is back.

        Args:
            photos: photos, or pairs of an id and a photo. What the iterable raises is raised after the answers to
                earlier photos.
            model: as for `classify`.
            version: as for `classify`.
            label: as for `classify`.
            tta: as for `classify`.
            deadline: seconds that each photo may take; the client's default when None.
            in_flight: most photos that are sent and not answered.
            retry_overloaded: as for `classify`.

        Raises:
            ValueError: an argument is not valid.
        """
        if isinstance(photos, str | bytes | os.PathLike):
            raise ValueError("classify_many takes several photos: give a list, or call classify for one")
        prepare = preparer(model=model, version=version, label=label, tta=tta)

        def ask(image: bytes, waiter: Many, end: float, wait: bool) -> Prediction:
            options: dict[str, Any] = {"request_id": make_request_id(None), "patient": retry_overloaded}
            call = self._ask(self._stub.Classify, prepare(image), end, waiter=waiter, wait_for_ready=wait, **options)
            return read_prediction(finish(call))

        return Many(ask, deadline=self._seconds(deadline), in_flight=in_flight).answers(photos, self._waiter)

    async def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """List the models the gateway serves, without their cards. Raises DermserveError: no answer."""
        response = await self._ask(self._stub.ListModels, classifier_pb2.ListModelsRequest(), self._end(deadline))
        return tuple(map(read_model, response.models))

    async def model(self, name: str, *, deadline: float | None = None) -> Model:
        """Return one model, with the card of every version that can answer. Raises NotFound: no such one."""
        response = await self._ask(self._stub.GetModel, classifier_pb2.GetModelRequest(name=name), self._end(deadline))
        return read_model(response.model)


class Client(_Base):
    """Calls a gateway, from any number of threads. Use it as a context manager, or call `close`.

    Args:
        target: HOST:PORT, or any gRPC target (dns:///name:port balances over all addresses of the name).
        tls: transport security; plaintext when None.
        deadline: seconds that a call may take, unless the call has its own.
        attempts: how often gRPC makes a call in all, 1 to 5, while the gateway is UNAVAILABLE; a throttle stops retries
            while most calls fail.
        metadata: sent with every call, for example a token that an edge proxy asks for.

    Raises:
        ValueError: an option is not valid.
    """

    _waiter = Blocking
    classify = blocking(AsyncClient.classify)
    classify_many = blocking_generator(AsyncClient.classify_many)
    models = blocking(AsyncClient.models)
    model = blocking(AsyncClient.model)
    close = blocking(AsyncClient.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
