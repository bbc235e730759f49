"""Handle one RPC, or one photo of a stream: id, budget, log line, metrics, and errors as statuses.

Each leaves one log line. Of those refused because there are too many, one line a second is written.
"""

import asyncio
import math
import re
import secrets
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import (
    ExhaustedError,
    GatewayError,
    InternalError,
    OutOfMemoryError,
    OverloadedError,
    StoppingError,
)
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import classifier_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DOMAIN = "dermserve.v1"
"""ErrorInfo.domain of every error."""
REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, both ways."""
CALLER_KEY = "x-caller-key"
"""Metadata key whose value identifies a caller; it is hashed and used for nothing else."""
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LOG_EVERY = 1.0
"""Seconds between the log lines of requests that are refused for overload."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger(__name__)


def read_request_id(value: object) -> str:
    """Return the caller's request id when it is 1 to 64 of [A-Za-z0-9._-], else 32 random hexadecimal digits."""
    return value if isinstance(value, str) and _FIT.fullmatch(value) else secrets.token_hex(16)


def read_trace_id(value: object) -> str | None:
    """Return the trace id of a W3C `traceparent`, or None when it is not well-formed."""
    match = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


class LogSampler:
    """Limits log lines that may be thousands a second: one a second is written, with the number left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = -math.inf
        self._skipped = 0

    def sample(self) -> int | None:
        """Return how many lines were left out since the one before, or None when this one is to be left out, too."""
        now = self._clock()
        if now < self._next:
            self._skipped += 1
            return None
        self._next = now + _LOG_EVERY
        skipped, self._skipped = self._skipped, 0
        return skipped


class Rpcs:
    """All RPCs in flight."""

    def __init__(
        self, *, default_seconds: float, max_seconds: float, metrics: Metrics, tracing: Tracing, clock: Clock
    ) -> None:
        """Begin with none.

        Args:
            default_seconds: for a request whose caller set no deadline, and for each photo of a stream.
            max_seconds: no request gets more.
            metrics: counts them.
            tracing: opens a span for each photo of a stream; those of RPCs are gRPC's interceptor's.
            clock: monotonic seconds.
        """
        self.default_seconds = default_seconds
        self.max_seconds = max_seconds
        self.metrics = metrics
        self.tracing = tracing
        self.clock = clock
        self.stopping = asyncio.Event()
        """Set when new RPCs are refused."""
        self.overloads = LogSampler(clock)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def finish(self) -> None:
        """Refuse new RPCs from now on; return when those in flight are answered."""
        self.stopping.set()
        await self._idle.wait()

    def open(self, method: str, context: Context, *, model: str | None = "") -> "Rpc":
        """Open an RPC for `async with`; a stream, whose model is None, may take as long as its caller likes."""
        metadata = dict(context.invocation_metadata() or ())
        default, most = (math.inf, math.inf) if model is None else (self.default_seconds, self.max_seconds)
        asked: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
        seconds = min(default if asked is None else asked, most)
        rpc = Rpc(self, method, read_request_id(metadata.get(REQUEST_ID_KEY)), seconds, model=model, context=context)
        caller = metadata.get(CALLER_KEY)
        rpc.caller = caller if isinstance(caller, str) else rpc.request_id
        rpc.trace_id = read_trace_id(metadata.get("traceparent"))
        return rpc

    def count(self, context: Context) -> None:
        """Count an RPC as in flight until gRPC has sent its answer, which is after the handler has returned it."""
        self._in_flight += 1
        self._idle.clear()
        context.add_done_callback(self._uncount)  # type: ignore[arg-type]  # stubs want a Protocol

    def _uncount(self, _: object) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()


class Rpc:
    """One RPC or one photo of a stream. Set `answer` within `async with`; an error within it is sent instead."""

    def __init__(
        self, rpcs: Rpcs, method: str, request_id: str, seconds: float, *, model: str | None, context: "Context | None"
    ) -> None:
        self._rpcs = rpcs
        self._context = context
        self._started = rpcs.clock()
        self._span: Any = None
        self.method = method
        self.model = model
        """As the caller wrote it, "" for none; None for a stream, whose photos are counted instead."""
        self.request_id = request_id
        self.trace_id: str | None = None
        """Of the caller's W3C traceparent."""
        self.caller = request_id
        """Tells callers apart, for the canary share; never logged."""
        self.budget = Budget(self._started + seconds, rpcs.clock)
        self.answer: Any = None
        self.error: GatewayError | None = None
        """What it ended in."""

    def photo(self, number: int, *, model: str) -> "Rpc":
        """Open one photo of this stream: it has an id and a budget of its own, within the stream's."""
        seconds = min(self._rpcs.default_seconds, self.budget.left())
        photo = Rpc(self._rpcs, self.method, f"{self.request_id}.{number}", seconds, model=model, context=None)
        photo.caller, photo.trace_id = self.caller, self.trace_id
        return photo

    async def __aenter__(self) -> "Rpc":
        """Begin.

        Raises:
            grpc.aio.AbortError: after the caller got the status that the gateway is stopping.
        """
        if self._context is None:
            self._span = self._rpcs.tracing.span("photo", serving=True)
            self._span.__enter__()
            return self
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))
        if self._rpcs.stopping.is_set():
            self.error = StoppingError()
            self._meter(self.error)
            await _abort(self._context, self.error, request_id=self.request_id)
        self._rpcs.count(self._context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End in the answer, or in an error, which is sent; a photo's is left in `error`.

        Raises:
            grpc.aio.AbortError: after the caller was sent the error.
        """
        try:
            if error is not None and not isinstance(error, Exception):  # the caller gave up, or a stop has no patience
                total_ms = round((self._rpcs.clock() - self._started) * 1e3, 1)
                _log.info("request_cancelled", **self._names(), code="CANCELLED", total_ms=total_ms)
                self._meter(None)
                return False
            self._end(None if error is None else self._intended(error))
        finally:
            if self._span is not None:
                self._span.__exit__(kind, None, None)
        if self.error is not None and self._context is not None:
            await _abort(self._context, self.error, request_id=self.request_id)
        return True

    def _intended(self, error: Exception) -> GatewayError:
        """Turn an exception into the caller's error; an unintended one becomes INTERNAL and is logged."""
        if isinstance(error, GatewayError):
            return error
        if isinstance(error, MemoryError):
            _log.error("out_of_memory", **self._names(), exc_info=error)
            return OutOfMemoryError()
        _log.error("request_failed", **self._names(), code="INTERNAL", exc_info=error)
        return InternalError()

    def _end(self, error: GatewayError | None) -> None:
        self.error, facts, code = error, _facts(self.answer), error.status.name if error else "OK"
        if error is None:
            _log.info("request_answered", **self._names(), code=code, **facts)
        elif isinstance(error, OverloadedError):  # as many as there are too many: their lines would be more of a load
            if (skipped := self._rpcs.overloads.sample()) is not None:
                _log.info("request_refused", **self._names(), code=code, reason=error.reason, unlogged=skipped)
        elif type(error) is not InternalError:
            _log.info("request_refused", **self._names(), code=code, reason=error.reason, cause=_cause(error))
        self._meter(error or self.answer or "OK")  # a stream has no answer of its own
        self._rpcs.tracing.annotate(code=code, request_id=self.request_id, **facts)

    def _meter(self, ended: object) -> None:
        if self.model is None:
            self._rpcs.metrics.stream(ended)
        else:
            seconds = self._rpcs.clock() - self._started
            self._rpcs.metrics.request(self.method, self.model, ended=ended, seconds=seconds)

    def _names(self) -> dict[str, str]:
        names = {"method": self.method, "request_id": self.request_id}
        trace_id = self.trace_id or self._rpcs.tracing.trace_id()
        return names | ({"trace_id": trace_id} if trace_id else {})


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


async def _abort(context: Context, error: GatewayError, *, request_id: str) -> NoReturn:
    status = rpc_status.to_status(to_status(error, request_id=request_id))
    trailing: tuple[tuple[str, str | bytes], ...] = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    if isinstance(error, ExhaustedError):
        # Tells a gRPC client that retries RESOURCE_EXHAUSTED when to, or not to (gRFC A6): a photo stays too large.
        milliseconds = -1 if error.retry_after is None else int(error.retry_after * 1e3)
        trailing = (*trailing, (_PUSHBACK_KEY, str(milliseconds)))
    await context.abort(status.code, status.details, trailing)


def _cause(error: GatewayError) -> str | None:
    """Say what lay behind an error, for the log: gRPC's own message, or the exception's."""
    cause = error.__cause__
    while isinstance(cause, GatewayError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        return f"{cause.code().name}: {cause.details()}"
    return None if cause is None else f"{type(cause).__name__}: {cause}"


def _facts(answer: object) -> dict[str, Any]:
    if not isinstance(answer, classifier_pb2.ClassifyResponse):
        return {}
    return {
        "model": answer.model,
        "version": answer.version,
        "weights_digest": answer.weights_digest,
        "gateway_version": answer.gateway_version,
        "verdict": classifier_pb2.Verdict.Name(answer.verdict),
        "risk_level": classifier_pb2.RiskLevel.Name(answer.malignancy.level),
        "views": answer.views_used,
        "total_ms": round(answer.timings.total_ms, 1),
    }
