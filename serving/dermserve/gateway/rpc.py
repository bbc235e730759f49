"""Handle one RPC, or one photo of a stream: id, budget, log line, metrics, and errors as statuses.

Each is logged once. Refusals for overload are logged at most once a second.
"""

import asyncio
import contextlib
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.rpc import error_details_pb2, status_pb2

from dermserve.gateway.budget import OVER, Budget
from dermserve.gateway.config import Config
from dermserve.gateway.errors import BudgetSpentError, GatewayError, OverloadedError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.tracing import Tracing
from dermserve.imaging import PhotoError
from dermserve.v1 import classifier_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DOMAIN = "dermserve.v1"  # ErrorInfo.domain of every error
REQUEST_ID_KEY = "x-request-id"  # metadata of requests and answers
CALLER_KEY = "x-caller-key"  # metadata that identifies a caller; it is hashed and used for nothing else
_STATUS_KEY = "grpc-status-details-bin"  # metadata of an answer with a google.rpc.Status
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LOG_EVERY = 1.0  # seconds between the log lines of requests that are refused for overload
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")

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

    def __init__(self, config: Config, *, metrics: Metrics, tracing: Tracing, finished: asyncio.Event) -> None:
        """Make it without RPCs; `finished` ends the wait of `finish`, and is set when none is in flight then."""
        self.default_seconds, self._max_seconds = config.default_deadline_seconds, config.max_deadline_seconds
        self.metrics, self.tracing = metrics, tracing
        self.stopping = asyncio.Event()  # set when new RPCs are refused
        self._next_log = -math.inf
        self._in_flight, self._finished = 0, finished

    async def finish(self, grace: float) -> None:
        """Refuse new RPCs from now on; return when all in flight are answered, after `grace` seconds at the latest."""
        self.stopping.set()
        if self._in_flight:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), grace)

    def may_log_overload(self) -> bool:
        """Tell whether to log a refusal for overload, as each line adds load."""
        if is_due := (now := time.monotonic()) >= self._next_log:
            self._next_log = now + _LOG_EVERY
        return is_due

    def open(self, method: str, context: Context, *, model: str | None = "") -> "Rpc":
        """Open an RPC for `async with`. A stream, whose model is None, has no deadline of the gateway."""
        metadata = dict(context.invocation_metadata() or ())
        default, most = (math.inf, math.inf) if model is None else (self.default_seconds, self._max_seconds)
        asked: float | None = context.time_remaining()  # None without a deadline, unlike in the stubs
        budget = Budget(time.monotonic() + min(default if asked is None else asked, most), time.monotonic)
        request_id = read_request_id(metadata.get(REQUEST_ID_KEY))
        caller, trace_id = str(metadata.get(CALLER_KEY, request_id)), read_trace_id(metadata.get("traceparent"))
        return Rpc(self, method, model, request_id, caller, trace_id, budget, context)

    def count(self, context: Context) -> None:
        """Count an RPC as in flight until gRPC has sent its answer, after the handler has returned it."""
        self._in_flight += 1
        context.add_done_callback(self._uncount)  # type: ignore[arg-type]  # stubs want a Protocol

    def _uncount(self, _: object) -> None:
        self._in_flight -= 1
        if not self._in_flight and self.stopping.is_set():
            self._finished.set()


@dataclass(eq=False, slots=True)
class Rpc:
    """One RPC or one photo of a stream. Set `answer` within `async with`; an exception there is sent instead."""

    _rpcs: Rpcs
    method: str
    model: str | None  # as the caller wrote it, "" for none; None for a stream, whose photos are counted instead
    request_id: str
    caller: str  # tells callers apart, for the canary share; never logged
    trace_id: str | None  # of the caller's W3C traceparent
    budget: Budget
    _context: "Context | None" = None  # None for a photo
    started: float = field(default_factory=time.monotonic)
    spent: dict[str, float] = field(default_factory=dict)  # seconds in each stage so far
    label: str | None = None  # that it was sent to, if it has neither version nor label
    answer: classifier_pb2.ClassifyResponse | None = None
    _stage: str = ""  # the current one
    _since: float = 0.0  # when that began
    _end_stage: Callable[[], None] = field(init=False)
    _end_span: Callable[[], None] | None = None

    def photo(self, number: int, *, model: str) -> "Rpc":
        """Open one photo of this stream. It has its own id, and its own budget within that of the stream."""
        request_id, budget = f"{self.request_id}.{number}", self.budget.within(self._rpcs.default_seconds)
        return Rpc(self._rpcs, self.method, model, request_id, self.caller, self.trace_id, budget)

    def enter(self, stage: str, error: BaseException | None = None) -> None:
        """Enter a stage, in a span of its own, or none if it is ""; an error is what ended the stage before."""
        now = time.monotonic()
        if self._stage:
            self.spent[self._stage] = self.spent.get(self._stage, 0.0) + now - self._since
            if error is not None:
                self._rpcs.tracing.fail(getattr(error, "reason", type(error).__name__))
            self._end_stage()
        self._stage, self._since = stage, now
        if stage:
            self._end_stage = self._rpcs.tracing.begin(stage)

    async def __aenter__(self) -> "Rpc":
        """Begin.

        Raises:
            grpc.aio.AbortError: the gateway is stopping; the caller got that status.
        """
        if self._context is None:
            self._end_span = self._rpcs.tracing.begin("photo")
            return self
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))
        if self._rpcs.stopping.is_set():
            await self._end(stopping_error())
        self._rpcs.count(self._context)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, frames: object) -> None:
        """End with the answer or an error, which is sent.

        Raises:
            grpc.aio.AbortError: after the caller was sent the error.
            GatewayError: the error of a photo.
        """
        del frames  # what is raised refers to this one, and through them to the photo
        try:
            await self._end(error)
        finally:
            del error
            if self._end_span:
                self._end_span()

    async def _end(self, error: BaseException | None) -> None:
        """Log and count it; send the caller an exception as an error, INTERNAL if nobody expected it."""
        code, event, refusal, told = "OK", "request_answered", None, dict[str, Any]()
        seconds, stage, metrics = time.monotonic() - self.started, self._stage, self._rpcs.metrics
        facts: dict[str, Any] = _facts(self.answer) if self.answer else {}
        if error is not None:
            facts = {"model": metrics.known(self.model), "stage": stage, "total_ms": round(seconds * 1e3, 1)}
        self.enter("", error)
        if isinstance(error, Exception):
            refusal, event, told = _refuse(error, stage=stage)
            code = refusal.status.name
        elif error is not None:  # the caller cancelled, or the gateway stops at once
            code, event = "CANCELLED", "request_cancelled"
        if trace_id := self.trace_id or self._rpcs.tracing.trace_id():
            told["trace_id"] = trace_id
        if not isinstance(error, OverloadedError) or self._rpcs.may_log_overload():
            log = _log.error if "exc_info" in told else _log.info
            log(event, method=self.method, request_id=self.request_id, code=code, **facts, **told)
        reason = refusal.reason if refusal else None
        metrics.ended(self, code, facts, seconds=seconds, reason=reason)
        # A bad photo or a caller who gave up says nothing of the version. gRPC cancels calls that are late, too.
        is_end = refusal is not None or not error or self.budget.left() <= OVER
        if self.model and self.label and is_end and not isinstance(error, PhotoError | MemoryError):
            seconds -= self.spent["admit"]
            metrics.routed(self.model, self.label, failed=error is not None, seconds=seconds)
        if code != "OK":
            self._rpcs.tracing.fail(code)
        forget_frames(error)
        if refusal:
            if self._context:
                await _abort(self._context, refusal, request_id=self.request_id)
            try:
                raise refusal
            finally:
                del refusal, error  # they refer to this frame


def forget_frames(error: BaseException | None) -> None:
    """Forget where an error was raised: frames that refer to it would keep the photo until the next full collection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _refuse(error: Exception, *, stage: str) -> tuple[GatewayError, str, dict[str, Any]]:
    """Return the caller's error, and the event and facts to log, for an error in a stage."""
    cause = _cause(error)
    if isinstance(error, PhotoError):
        error = GatewayError(error.reason, str(error))
    if isinstance(error, TimeoutError):
        error = BudgetSpentError(stage)
    if isinstance(error, GatewayError):
        return error, "request_refused", {"reason": error.reason, "cause": cause}
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
    status = to_status(error, request_id=request_id).SerializeToString()
    trailing: list[tuple[str, str | bytes]] = [(_STATUS_KEY, status), (REQUEST_ID_KEY, request_id)]
    if error.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # For gRPC clients that retry RESOURCE_EXHAUSTED: when to retry, or never (gRFC A6), as for a photo that is too
        # large.
        milliseconds = -1 if error.retry_after is None else int(error.retry_after * 1e3)
        trailing.append((_PUSHBACK_KEY, str(milliseconds)))
    await context.abort(error.status, str(error), tuple(trailing))


def _cause(error: Exception) -> str | None:
    """Describe an error's cause for the log: gRPC's own message, or the exception's."""
    cause = error.__cause__ if isinstance(error, GatewayError) else error
    while isinstance(cause, GatewayError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, grpc.aio.AioRpcError):
        return f"{cause.code().name}: {cause.details()}"
    return None if cause is None else f"{type(cause).__name__}: {cause}"


def _facts(answer: classifier_pb2.ClassifyResponse) -> dict[str, Any]:
    """Describe an answer to a photo, for the log and the metrics."""
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
