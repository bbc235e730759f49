"""RPCs in flight: each gets a name and a budget, ends in an answer or an intended error, and leaves one log line.

But for those refused because there are too many: of their lines, one a second is written.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import grpc.aio
import structlog
from google.protobuf.message import Message

from dermserve.gateway.budget import Budget, Clock, open_budget
from dermserve.gateway.canary import read_caller
from dermserve.gateway.errors import GatewayError, InternalError, OverloadedError, StoppingError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.request_id import read_request_id, read_trace_id
from dermserve.gateway.sampling import Sampler
from dermserve.gateway.status import REQUEST_ID_KEY, abort
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import classifier_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = structlog.get_logger(__name__)
_T = TypeVar("_T", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Time a request may take, in seconds."""

    default: float
    """For one whose caller set no deadline, and for each photo of a stream."""
    cap: float
    """For any other."""


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC, or one photo of a stream."""

    method: str
    request_id: str
    trace_id: str | None
    """Of the caller's W3C traceparent."""
    caller: str
    """Tells callers apart, for the canary share; never logged."""
    budget: Budget
    started: float
    """When the clock showed this, it arrived."""
    model: str | None
    """As the caller wrote it, "" for none; None for a stream, whose photos are counted instead."""
    parent: Any = None
    """The caller's trace context; see Tracing."""


class Calls:
    """All RPCs in flight."""

    def __init__(self, allowance: Allowance, *, metrics: Metrics, tracing: Tracing, clock: Clock) -> None:
        self._allowance = allowance
        self._metrics = metrics
        self._tracing = tracing
        self._clock = clock
        self._in_flight = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._overloads = Sampler(clock)

    async def finish(self) -> None:
        """Refuse new RPCs from now on; return when those in flight are answered."""
        self._stopping = True
        await self._idle.wait()

    async def respond(
        self, method: str, context: Context, work: Callable[[Call], Awaitable[_T]], *, model: str | None = ""
    ) -> _T:
        """Answer an RPC by some work.

        A stream, whose model is None, may take as long as its caller likes: each photo of it has its own budget.

        Raises:
            grpc.aio.AbortError: after the caller was sent the error that the work ended in.
        """
        call = self._open(method, context, model=model)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        if self._stopping:
            answer: _T | GatewayError = StoppingError()
            self._meter(call, answer)
        else:
            self._count(context)
            answer = await self.settle(call, work)
        if isinstance(answer, GatewayError):
            await abort(context, answer, request_id=call.request_id)
        return answer

    async def settle(self, call: Call, work: Callable[[Call], Awaitable[_T]]) -> _T | GatewayError:
        """Do some work, log and count how it ended; whatever it raises becomes an error meant for the caller."""
        with self._tracing.span(
            call.method, kind="SERVER", parent=call.parent, **{"rpc.system": "grpc", "request_id": call.request_id}
        ):
            try:
                answer = await self._settle(call, work)
            except asyncio.CancelledError:
                self._meter(call, None)
                raise
            self._meter(call, answer)
            code = answer.status.name if isinstance(answer, GatewayError) else "OK"
            self._tracing.end(code=code, **_facts(answer))
            return answer

    async def _settle(self, call: Call, work: Callable[[Call], Awaitable[_T]]) -> _T | GatewayError:
        try:
            answer = await work(call)
        except GatewayError as error:
            self._log_refusal(call, error)
            return error
        except Exception:
            _log.exception("failed", **self._names(call), code="INTERNAL")
            return InternalError()
        _log.info("answered", **self._names(call), code="OK", **_facts(answer))
        return answer

    def _log_refusal(self, call: Call, error: GatewayError) -> None:
        more = {}
        if isinstance(error, OverloadedError):  # as many as there are too many: their lines would be more of a load
            skipped = self._overloads.sample()
            if skipped is None:
                return
            more = {"unlogged": skipped}
        _log.info(
            "refused", **self._names(call), code=error.status.name, reason=error.reason, cause=_cause(error), **more
        )

    def part(self, call: Call, number: int, *, model: str) -> Call:
        """Make the call of one photo of a stream: it has a name and a budget of its own, within the stream's."""
        now = self._clock()
        budget = Budget(min(now + self._allowance.default, call.budget.ends), self._clock)
        name = f"{call.request_id}.{number}"
        return replace(call, request_id=name, budget=budget, started=now, model=model, parent=None)

    def _open(self, method: str, context: Context, *, model: str | None) -> Call:
        metadata = list(context.invocation_metadata() or ())
        request_id = read_request_id(metadata)
        asked = context.time_remaining()  # None without a deadline, whatever its type says
        default, cap = (math.inf, math.inf) if model is None else (self._allowance.default, self._allowance.cap)
        return Call(
            method,
            request_id,
            read_trace_id(metadata),
            read_caller(metadata, otherwise=request_id),
            open_budget(self._clock, asked=asked, default=default, cap=cap),
            self._clock(),
            model,
            self._tracing.parent(metadata),
        )

    def _meter(self, call: Call, ended: object) -> None:
        if call.model is None:
            self._metrics.stream(ended)
        else:
            self._metrics.request(call.method, call.model, ended=ended, seconds=self._clock() - call.started)

    def _names(self, call: Call) -> dict[str, str]:
        names = {"method": call.method, "request_id": call.request_id}
        trace_id = call.trace_id or self._tracing.trace_id()
        return names | ({"trace_id": trace_id} if trace_id else {})

    def _count(self, context: Context) -> None:
        """Count an RPC as in flight until gRPC has sent its answer, which is after the handler has returned it."""
        self._in_flight += 1
        self._idle.clear()
        context.add_done_callback(lambda _: self._uncount())  # type: ignore[arg-type]  # stubs want a Protocol

    def _uncount(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()


def _cause(error: GatewayError) -> str | None:
    """Say what lay behind an error, for the log: gRPC's own message, or the exception's."""
    cause = error.__cause__
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
