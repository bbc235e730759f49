"""The interceptor that reports every call, and every photo of a stream, exactly once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import code_pb2

from dermserve.v1 import classifier_pb2

UNANSWERED = "UNANSWERED"
"""Status of a stream's photo that got no answer although the stream ended without an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The result of one call, or of one photo of a stream."""

    method: str
    """"Classify" or "ClassifyStream"; of another service or method, its last part."""
    model: str
    mode: str
    """"NONE", "FULL" or "ADAPTIVE"."""
    status: str
    """Name of the gRPC status."""
    milliseconds: float
    """From when it was due, or else began, to its answer."""
    response_bytes: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds in each of the gateway's stages, as the answer says."""
    message: str = ""
    """The error's message."""

    @property
    def name(self) -> str:
        """Its name in lists."""
        return " ".join(part for part in (self.method, self.model, self.mode) if part)


class ReportCalls(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Reports what passes through a channel.

    Args:
        report: takes each call once, when it has ended.
        due: returns when the call that starts now was due, by the clock; None for now.
        clock: seconds.
    """

    def __init__(
        self,
        report: Callable[[Call], object],
        *,
        due: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._report = report
        self._due = due
        self._clock = clock

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Time one call."""
        due = self._due()
        started = self._clock() if due is None else due
        method = details.method.rpartition("/")[2]

        def report(ended: Any) -> None:
            status = ended.code()
            answer = ended.result() if status is grpc.StatusCode.OK else None
            self._report(_call(method, request, answer, self._clock() - started, status.name, ended.details()))

        call = continuation(details, request)
        call.add_done_callback(report)
        return call

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Time every photo of one stream."""
        sent: dict[str, tuple[float, classifier_pb2.ClassifyRequest]] = {}

        def sending() -> Iterator[Any]:
            for request in requests:
                sent[request.id] = (self._clock(), request.request)
                yield request

        def end(name: str, status: str, message: str = "", answer: Any = None) -> None:
            if name in sent:  # of two answers only the first counts
                started, request = sent.pop(name)
                self._report(_call("ClassifyStream", request, answer, self._clock() - started, status, message))

        return _Answers(continuation(details, sending()), sent, end)


class _Answers:
    """A stream's call that records each answer before the caller gets it."""

    def __init__(self, call: Any, sent: dict[str, Any], end: Callable[..., None]) -> None:
        self._call = call
        self._sent = sent
        self._end = end

    def __iter__(self) -> "_Answers":
        return self

    def __next__(self) -> Any:
        try:
            item = next(self._call)
        except StopIteration:
            self._end_all(UNANSWERED, "the stream ended without an answer to this photo")
            raise
        except grpc.RpcError as error:
            self._end_all(error.code().name, error.details() or "")
            raise
        if item.WhichOneof("result") == "error":
            self._end(item.id, code_pb2.Code.Name(item.error.code), item.error.message)
        else:
            self._end(item.id, "OK", answer=item.response)
        return item

    def _end_all(self, status: str, message: str) -> None:
        for name in list(self._sent):
            self._end(name, status, message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _call(method: str, request: Any, answer: Any, seconds: float, status: str, message: str | None) -> Call:
    classify = isinstance(request, classifier_pb2.ClassifyRequest)
    mode = classifier_pb2.TtaMode.Name(request.tta or classifier_pb2.TTA_MODE_NONE) if classify else ""
    return Call(
        method=method,
        model=request.model.name if classify else "",
        mode=mode.removeprefix("TTA_MODE_"),
        status=status,
        message="" if status == "OK" else message or "",
        milliseconds=seconds * 1000,
        response_bytes=answer.ByteSize() if answer is not None else 0,
        stages=_stages(answer.timings) if isinstance(answer, classifier_pb2.ClassifyResponse) else {},
    )


def _stages(timings: classifier_pb2.Timings) -> dict[str, float]:
    known = {name: getattr(timings, f"{name}_ms") for name in ("decode", "plan", "predict", "reduce")}
    return {**known, "other": max(0.0, timings.total_ms - sum(known.values()))}
