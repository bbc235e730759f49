"""From an error to what travels: a google.rpc.Status with ErrorInfo and, where trying again helps, RetryInfo."""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from dermserve.gateway.errors import ExhaustedError, GatewayError

DOMAIN = "dermserve.v1"
"""ErrorInfo.domain of every error."""
REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, both ways."""
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


def to_status(error: GatewayError, *, request_id: str) -> status_pb2.Status:
    """Describe an error as google.rpc.Status."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"request_id": request_id})
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=error.status.value[0], message=str(error), details=details)


async def abort(
    context: "grpc.aio.ServicerContext[Message, Message]", error: GatewayError, *, request_id: str
) -> NoReturn:
    """End an RPC with an error.

    Raises:
        grpc.aio.AbortError: always, as gRPC's own `abort` does.
    """
    status = rpc_status.to_status(to_status(error, request_id=request_id))
    trailing = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id), *_pushback(error))
    await context.abort(status.code, status.details, trailing)


def _pushback(error: GatewayError) -> tuple[tuple[str, str], ...]:
    """Tell a gRPC client that retries RESOURCE_EXHAUSTED when to, or not to (gRFC A6); a photo stays too large."""
    if not isinstance(error, ExhaustedError):
        return ()
    milliseconds = -1 if error.retry_after is None else int(error.retry_after * 1e3)
    return ((_PUSHBACK_KEY, str(milliseconds)),)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
