"""The Locust user of the gateway, with gRPC that works with gevent."""

import contextlib
import functools
import itertools
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import User

from dermserve.client import TLS
from dermserve.client._connection import Connection
from dermserve.client._request import preparer
from dermserve.loadtest.calls import Call, ReportCalls
from dermserve.loadtest.scenario import load_photos
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

grpc_gevent.init_gevent()

Answer: TypeAlias = classifier_pb2.ClassifyResponse
StreamAnswer: TypeAlias = classifier_pb2.ClassifyStreamResponse
_CONNECTIONS = 4  # of each process, which its users share
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # otherwise the channels of one process share a connection
    ("grpc.enable_retries", 0),  # a load test must see failures
)
_photos = functools.cache(load_photos)


@functools.cache
def _channels(target: str, tls: TLS | None) -> Iterator[grpc.Channel]:
    connection = Connection(target=target, tls=tls, attempts=1)
    return itertools.cycle([connection.open(*_OPTIONS) for _ in range(_CONNECTIONS)])


class CallError(Exception):
    """A call that failed: its status and message, for Locust's lists."""

    __repr__ = Exception.__str__


class ClassifyUser(User):
    """A user of the gateway, the base class for users of your own locustfile: `locust -f FILE --host HOST:PORT`.

    Every call is reported once, as "Classify MODEL MODE"; one that failed returns None and raises nothing.
    """

    abstract = True
    photos_folder: str | None = os.environ.get("DERMSERVE_LOADTEST_PHOTOS") or None  # None: drawn ones
    sides: Sequence[int] = tuple(map(int, os.environ.get("DERMSERVE_LOADTEST_SIDES", "").split()))  # pixels
    photos: ClassVar[Sequence[bytes]] = ()  # read when a class is defined: before a worker connects to its master
    deadline: float = 10.0  # seconds a call may take
    tls: TLS | None = None  # plaintext when None
    metadata: Mapping[str, str] = MappingProxyType({})  # sent with every call

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "--master" not in sys.argv:  # which sends nothing
            cls.photos = _photos(cls.photos_folder, tuple(cls.sides))

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        if not self.host:
            raise ValueError("no gateway to call: give --host HOST:PORT, or set `host` in the locustfile")
        target = self.host.removeprefix("http://").removeprefix("https://").rstrip("/")
        calls = ReportCalls(self.report, due=self.take_due)
        channel = grpc.intercept_channel(next(_channels(target, self.tls)), calls)
        self.stub = classifier_pb2_grpc.ClassifierStub(channel)  # type: ignore[no-untyped-call]
        """The gRPC stub, for other calls, which are reported, too."""

    def classify(self, photo: bytes | None = None, *, model: str, mode: str = "NONE") -> Answer | None:
        """Classify a file, or one of `photos`, with mode "NONE", "FULL" or "ADAPTIVE"; return None when it failed."""
        self._yield_to_stop()
        try:
            answer: Answer = self.stub.Classify(
                self._request(photo, model, mode), timeout=self.deadline, metadata=tuple(self.metadata.items())
            )
        except grpc.RpcError:
            return None
        return answer

    def classify_stream(self, count: int, *, model: str, mode: str = "NONE") -> list[StreamAnswer]:
        """Classify `count` of the photos over one stream; return the answers that came, in the order they came."""
        self._yield_to_stop()
        requests = (
            classifier_pb2.ClassifyStreamRequest(id=str(index), request=self._request(None, model, mode))
            for index in range(count)
        )
        answers: list[StreamAnswer] = []
        metadata = tuple(self.metadata.items())
        with contextlib.suppress(grpc.RpcError):
            answers.extend(self.stub.ClassifyStream(requests, timeout=self.deadline * count, metadata=metadata))
        return answers

    def take_due(self) -> float | None:
        """Return when the call that begins now was due, by `time.perf_counter`; None for now."""
        return None

    def _yield_to_stop(self) -> None:
        """End here if the test is over: Locust stops a user that waits at once, even in the midst of its next call."""
        gevent.sleep(0)

    def _request(self, photo: bytes | None, model: str, mode: str) -> classifier_pb2.ClassifyRequest:
        image = random.choice(self.photos) if photo is None else photo  # noqa: S311 - no secret
        return preparer(model=model, version=None, label=None, tta=mode.lower())(image)

    def report(self, call: Call) -> None:
        """Report a call to Locust."""
        answered = call.status == "OK"
        self.environment.events.request.fire(
            request_type="gRPC",
            name=call.name,
            response_time=call.milliseconds if answered else None,  # Locust's percentiles are of answers only
            response_length=call.response_bytes,
            exception=None if answered else CallError(f"{call.status}: {call.message}"),
            context={**self.context(), "model": call.model, "mode": call.mode, "status": call.status},
        )
