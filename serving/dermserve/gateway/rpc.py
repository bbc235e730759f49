"""Handle one RPC, or one photo of a stream: id, budget, log line, metrics, and errors as statuses.

Each is logged once. Refusals for overload are logged at most once a second.
"""

import asyncio
import math
import random
import re
import time
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from dermserve.gateway.budget import Budget
from dermserve.gateway.config import Config
from dermserve.gateway.errors import GatewayError, OverloadedError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import classifier_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DOMAIN = "dermserve.v1"  # ErrorInfo.domain of every error
REQUEST_ID_KEY = "x-request-id"  # metadata of requests and answers
CALLER_KEY = "x-caller-key"  # metadata that identifies a caller; it is hashed and used for nothing else
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LOG_EVERY = 1.0  # seconds between the log lines of requests that are refused for overload
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")

_VERDICTS = {number: name for name, number in classifier_pb2.Verdict.items()}
_LEVELS = {number: name for name, number in classifier_pb2.RiskLevel.items()}

_log = structlog.get_logger(__name__)


def stopping_error() -> GatewayError:
    """Make the error of requests that arrive while the gateway finishes accepted ones."""
    text = "this gateway is stopping: try again, another one or its successor will answer"
    return GatewayError("GATEWAY_STOPPING", text)


def read_request_id(value: object) -> str:
    """Return the caller's request id when it is 1 to 64 of [A-Za-z0-9._-], else 32 random hexadecimal digits."""
    if isinstance(value, str) and _FIT.fullmatch(value):
        return value
    return f"{random.getrandbits(128):032x}"  # no secret; at os.urandom another thread would take over


def read_trace_id(value: object) -> str | None:
    """Return the trace id of a W3C `traceparent`, or None when it is not well-formed."""
    match = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


class Rpcs:
    """All RPCs in flight."""

    def __init__(self, config: Config, *, metrics: Metrics, tracing: Tracing) -> None:
        self.default_seconds, self._max_seconds = config.default_deadline_seconds, config.max_deadline_seconds
        self.metrics, self.tracing = metrics, tracing
        self.stopping = asyncio.Event()  # set when new RPCs are refused
        self._next_log, self._unlogged = -math.inf, 0
        self._in_flight, self._idle = 0, asyncio.Event()

    async def finish(self) -> None:
        """Refuse new RPCs from now on; return when all in flight are answered."""
        self.stopping.set()
        if self._in_flight:
            await self._idle.wait()

    def may_log(self, told: dict[str, Any]) -> bool:
        """Tell whether to log a refusal for overload, as each line adds load; `told` gets how many were left out."""
        now = time.monotonic()
        if now < self._next_log:
            self._unlogged += 1
            return False
        self._next_log = now + _LOG_EVERY
        told["unlogged"], self._unlogged = self._unlogged, 0
        return True

    def open(self, method: str, context: Context, *, model: str | None = "") -> "Rpc":
        """Open an RPC for `async with`. A stream, whose model is None, has no deadline of the gateway."""
        metadata = dict(context.invocation_metadata() or ())
        default, most = (math.inf, math.inf) if model is None else (self.default_seconds, self._max_seconds)
        asked: float | None = context.time_remaining()  # None without a deadline, unlike in the stubs
        seconds = min(default if asked is None else asked, most)
        rpc = Rpc(self, method, model, read_request_id(metadata.get(REQUEST_ID_KEY)), seconds, context)
        rpc.caller = str(metadata.get(CALLER_KEY, rpc.request_id))
        rpc.trace_id = read_trace_id(metadata.get("traceparent"))
        return rpc

    def count(self, context: Context) -> None:
        """Count an RPC as in flight until gRPC has sent its answer, after the handler has returned it."""
        self._in_flight += 1
        context.add_done_callback(self._uncount)  # type: ignore[arg-type]  # stubs want a Protocol

    def _uncount(self, _: object) -> None:
        self._in_flight -= 1
        if not self._in_flight and self.stopping.is_set():
            self._idle.set()


class Rpc:
    """One RPC or one photo of a stream. Set `answer` within `async with`; an exception there is sent instead."""

    def __init__(
        self, rpcs: Rpcs, method: str, model: str | None, request_id: str, seconds: float, context: "Context | None"
    ) -> None:
        self._rpcs = rpcs
        self._context = context  # None for a photo
        self._started = time.monotonic()
        self.method = method
        self.model = model  # as the caller wrote it, "" for none; None for a stream, whose photos are counted instead
        self.request_id = request_id
        self.trace_id: str | None = None  # of the caller's W3C traceparent
        self.caller = request_id  # tells callers apart, for the canary share; never logged
        self.budget = Budget(self._started + seconds, time.monotonic)
        self.answer: classifier_pb2.ClassifyResponse | None = None

    def photo(self, number: int, *, model: str) -> "Rpc":
        """Open one photo of this stream. It has its own id, and its own budget within that of the stream."""
        seconds = min(self._rpcs.default_seconds, self.budget.left())
        photo = Rpc(self._rpcs, self.method, model, f"{self.request_id}.{number}", seconds, None)
        photo.caller, photo.trace_id = self.caller, self.trace_id
        return photo

    async def __aenter__(self) -> "Rpc":
        """Begin.

        Raises:
            grpc.aio.AbortError: the gateway is stopping; the caller got that status.
        """
        self._end_span = self._rpcs.tracing.begin("photo") if self._context is None else None
        if self._context is not None:
            self._context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))
            if self._rpcs.stopping.is_set():
                await self._end(stopping_error())
            self._rpcs.count(self._context)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End with the answer or an error, which is sent.

        Raises:
            grpc.aio.AbortError: after the caller was sent the error.
            GatewayError: the error of a photo.
        """
        try:
            await self._end(error)
        finally:
            if self._end_span:
                self._end_span(None)  # it is marked already

    async def _end(self, error: BaseException | None) -> None:
        """Log and count it; send the caller an exception as an error, INTERNAL if nobody expected it."""
        code, event, refusal, told = "OK", "request_answered", None, dict[str, Any]()
        facts = _facts(self.answer) if self.answer else {}
        seconds = time.monotonic() - self._started
        if isinstance(error, Exception):
            refusal, event, told = _refuse(error)
            code = refusal.status.name
        elif error is not None:  # the caller cancelled, or the gateway stops at once
            code, event, told = "CANCELLED", "request_cancelled", {"total_ms": round(seconds * 1e3, 1)}
        if not isinstance(error, OverloadedError) or self._rpcs.may_log(told):
            trace_id = self.trace_id or self._rpcs.tracing.trace_id()
            log, trace = (_log.error if "exc_info" in told else _log.info), {"trace_id": trace_id} if trace_id else {}
            log(event, method=self.method, request_id=self.request_id, code=code, **trace, **facts, **told)
        if self.model is None:
            self._rpcs.metrics.streams(code).inc()
        else:
            reason = refusal.reason if refusal else None
            self._rpcs.metrics.request(self.method, self.model, code, facts, seconds=seconds, reason=reason)
        if code != "OK":
            self._rpcs.tracing.fail(code)
        if refusal:
            if self._context:
                await _abort(self._context, refusal, request_id=self.request_id)
            raise refusal


def _refuse(error: Exception) -> tuple[GatewayError, str, dict[str, Any]]:
    """Return the caller's error, and the event and facts to log."""
    if isinstance(error, GatewayError):
        return error, "request_refused", {"reason": error.reason, "cause": _cause(error)}
    if isinstance(error, MemoryError):
        text = "the gateway has no memory left for this photo: try again, or send a smaller one"
        return GatewayError("OUT_OF_MEMORY", text), "out_of_memory", {"exc_info": error}
    return GatewayError("INTERNAL", "internal error"), "request_failed", {"exc_info": error}


def to_status(error: GatewayError, *, request_id: str) -> status_pb2.Status:
    """Describe an error as google.rpc.Status: with ErrorInfo and, where trying again helps, RetryInfo."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"request_id": request_id})
    status = status_pb2.Status(code=error.status.value[0], message=str(error))
    status.details.add().Pack(info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(retry)
    return status


async def _abort(context: Context, error: GatewayError, *, request_id: str) -> None:
    status = rpc_status.to_status(to_status(error, request_id=request_id))
    trailing: tuple[tuple[str, str | bytes], ...] = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # For gRPC clients that retry RESOURCE_EXHAUSTED: when to retry, or never (gRFC A6), as for a photo that is too
        # large.
        milliseconds = -1 if error.retry_after is None else int(error.retry_after * 1e3)
        trailing = (*trailing, (_PUSHBACK_KEY, str(milliseconds)))
    await context.abort(status.code, status.details, trailing)


def _cause(error: GatewayError) -> str | None:
    """Describe an error's cause for the log: gRPC's own message, or the exception's."""
    cause = error.__cause__
    while isinstance(cause, GatewayError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        return f"{cause.code().name}: {cause.details()}"
    return None if cause is None else f"{type(cause).__name__}: {cause}"


def _facts(answer: classifier_pb2.ClassifyResponse) -> dict[str, Any]:
    """Describe an answer to a photo, for the log, the metrics and the trace."""
    return {
        "model": answer.model,
        "version": answer.version,
        "weights_digest": answer.weights_digest,
        "gateway_version": answer.gateway_version,
        "verdict": _VERDICTS[answer.verdict],
        "risk_level": _LEVELS[answer.malignancy.level],
        "views": answer.views_used,
        "total_ms": round(answer.timings.total_ms, 1),
    }
