"""The interceptor that reports every call, and every photo of a stream, exactly once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import code_pb2

from dermserve.v1 import classifier_pb2

UNANSWERED = "UNANSWERED"  # status of a stream's photo that got no answer although the stream ended without an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The result of one call, or of one photo of a stream."""

    method: str  # "Classify" or "ClassifyStream"; of another service or method, its last part
    model: str
    mode: str  # "NONE", "FULL" or "ADAPTIVE"
    status: str  # name of the gRPC status
    began: float  # by time.perf_counter
    milliseconds: float  # from when it was due, or else began, to its answer
    response_bytes: int = 0
    message: str = ""  # the error's message

    @property
    def name(self) -> str:
        """Its name in lists."""
        return " ".join(part for part in (self.method, self.model, self.mode) if part)


class ReportCalls(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Reports each call of a channel once, at its end. `due` gives when the call that starts is due; None for now."""

    def __init__(self, report: Callable[[Call], object], *, due: Callable[[], float | None] = lambda: None) -> None:
        self._report = report
        self._due = due

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Time one call."""
        due, began = self._due(), time.perf_counter()
        method = details.method.rpartition("/")[2]

        def report(ended: Any) -> None:
            status = ended.code()
            answer = ended.result() if status is grpc.StatusCode.OK else None
            self._end(method, request, began, due, status.name, ended.details() or "", answer)

        call = continuation(details, request)
        call.add_done_callback(report)
        return call

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Time every photo of one stream."""
        sent: dict[str, tuple[float, classifier_pb2.ClassifyRequest]] = {}

        def sending() -> Iterator[Any]:
            for request in requests:
                sent[request.id] = (time.perf_counter(), request.request)
                yield request

        def end(name: str, status: str, message: str = "", answer: Any = None) -> None:
            if name in sent:  # of two answers only the first counts
                began, request = sent.pop(name)
                self._end("ClassifyStream", request, began, None, status, message, answer)

        def answers() -> Iterator[Any]:
            status, message = UNANSWERED, "the stream ended without an answer to this photo"
            try:
                for item in continuation(details, sending()):
                    if item.WhichOneof("result") == "error":
                        end(item.id, code_pb2.Code.Name(item.error.code), item.error.message)
                    else:
                        end(item.id, "OK", answer=item.response)
                    yield item
            except grpc.RpcError as error:
                status, message = error.code().name, error.details() or ""
                raise
            finally:
                for name in list(sent):
                    end(name, status, message)

        return answers()

    def _end(
        self, method: str, request: Any, began: float, due: float | None, status: str, message: str, answer: Any
    ) -> None:
        classify = isinstance(request, classifier_pb2.ClassifyRequest)
        mode = classifier_pb2.TtaMode.Name(request.tta or classifier_pb2.TTA_MODE_NONE) if classify else ""
        self._report(Call(
            method=method, model=request.model.name if classify else "", mode=mode.removeprefix("TTA_MODE_"),
            status=status, message="" if status == "OK" else message, began=began,
            milliseconds=(time.perf_counter() - (began if due is None else due)) * 1000,
            response_bytes=answer.ByteSize() if answer is not None else 0,
        ))  # fmt: skip
