"""The interceptor that reports every call, and every photo of a stream, exactly once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import code_pb2

from dermserve.v1 import classifier_pb2

UNANSWERED = "UNANSWERED"
"""Status of a stream's photo that got no answer although the stream ended well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """How one call, or one photo of a stream, went."""

    method: str
    """"Classify" or "ClassifyStream"; of another service or method, its last part."""
    model: str
    """Model asked for."""
    mode: str
    """"NONE", "FULL" or "ADAPTIVE"."""
    status: str
    """Name of the gRPC status."""
    milliseconds: float
    """From when it was due, or began, to its answer."""
    response_bytes: int = 0
    """Of the answer's message."""
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds in each of the gateway's stages, as the answer says."""
    message: str = ""
    """Of an error."""

    @property
    def name(self) -> str:
        """What lists call it."""
        return " ".join(part for part in (self.method, self.model, self.mode) if part)


class ReportCalls(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Reports what passes through a channel.

    Args:
        report: takes each call once, when it has ended.
        due: when the call that starts now was due, on the clock; None for now.
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
        call = continuation(details, request)
        call.add_done_callback(lambda ended: self._report_unary(details.method, request, ended, started))
        return call

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Time every photo of one stream."""
        watched = _Photos(self._report, self._clock)
        return _Answers(continuation(details, watched.sending(requests)), watched)

    def _report_unary(self, path: str, request: Any, ended: Any, started: float) -> None:
        status = ended.code()
        answer = ended.result() if status is grpc.StatusCode.OK else None
        self._report(
            _call(
                path.rpartition("/")[2],
                request,
                answer,
                status=status.name,
                message="" if answer is not None else ended.details() or "",
                milliseconds=(self._clock() - started) * 1000,
            )
        )


class _Photos:
    """The photos of one stream that are under way."""

    def __init__(self, report: Callable[[Call], object], clock: Callable[[], float]) -> None:
        self._report = report
        self._clock = clock
        self._sent: dict[str, tuple[float, classifier_pb2.ClassifyRequest]] = {}

    def sending(self, requests: Iterator[classifier_pb2.ClassifyStreamRequest]) -> Iterator[Any]:
        for request in requests:
            self._sent[request.id] = (self._clock(), request.request)
            yield request

    def answered(self, response: classifier_pb2.ClassifyStreamResponse) -> None:
        if response.WhichOneof("result") == "error":
            self._end(response.id, status=code_pb2.Code.Name(response.error.code), message=response.error.message)
        else:
            self._end(response.id, status="OK", answer=response.response)

    def over(self, status: str, message: str) -> None:
        for name in list(self._sent):
            self._end(name, status=status, message=message)

    def _end(self, name: str, *, status: str, message: str = "", answer: Any = None) -> None:
        if (sent := self._sent.pop(name, None)) is None:  # answered twice: only the first counts
            return
        spent = (self._clock() - sent[0]) * 1000
        self._report(_call("ClassifyStream", sent[1], answer, status=status, message=message, milliseconds=spent))


class _Answers:
    """A stream's call that notes each answer on its way to the caller."""

    def __init__(self, call: Any, photos: _Photos) -> None:
        self._call = call
        self._photos = photos

    def __iter__(self) -> "_Answers":
        return self

    def __next__(self) -> Any:
        try:
            response = next(self._call)
        except StopIteration:
            self._photos.over(UNANSWERED, "the stream ended without an answer for it")
            raise
        except grpc.RpcError as error:
            self._photos.over(error.code().name, error.details() or "")
            raise
        self._photos.answered(response)
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _call(method: str, request: Any, answer: Any, *, status: str, message: str, milliseconds: float) -> Call:
    classify = isinstance(request, classifier_pb2.ClassifyRequest)
    mode = classifier_pb2.TtaMode.Name(request.tta or classifier_pb2.TTA_MODE_NONE) if classify else ""
    return Call(
        method=method,
        model=request.model.name if classify else "",
        mode=mode.removeprefix("TTA_MODE_"),
        status=status,
        message=message,
        milliseconds=milliseconds,
        response_bytes=answer.ByteSize() if answer is not None else 0,
        stages=_stages(answer) if isinstance(answer, classifier_pb2.ClassifyResponse) else {},
    )


def _stages(answer: classifier_pb2.ClassifyResponse) -> dict[str, float]:
    timings = answer.timings
    known = timings.decode_ms + timings.plan_ms + timings.predict_ms + timings.reduce_ms
    return {
        "decode": timings.decode_ms,
        "plan": timings.plan_ms,
        "predict": timings.predict_ms,
        "reduce": timings.reduce_ms,
        "other": max(0.0, timings.total_ms - known),
    }
