"""What can go wrong when a photo is classified, and how the wire's errors become these.

DermserveError
├── InvalidRequest             INVALID_ARGUMENT: mend the request
│   └── InvalidPhoto           the photo: empty, too large, damaged, in another format
│       └── UnreadablePhoto    its file can't be read on this side
├── NotFound                   NOT_FOUND: no such model, version or label
├── NotReady                   FAILED_PRECONDITION: the version is there and can't answer
├── AccessDenied               UNAUTHENTICATED, PERMISSION_DENIED
├── Overloaded                 RESOURCE_EXHAUSTED: try again after `retry_after` seconds
├── DeadlineExceeded           DEADLINE_EXCEEDED: no answer in time
├── Unavailable                UNAVAILABLE: no gateway, or nothing behind it; try again later
│   └── StreamBroke            a stream broke, and why got lost
└── Internal                   anything else: a defect, to be reported with `request_id`
"""

# ruff: noqa: N818 - each is caught by the gRPC status it stands for, as everywhere in gRPC's world

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class DermserveError(Exception):
    """Base of every error a call raises, `str()` of which says what is wrong and what to do."""

    status: str = "UNKNOWN"
    """Name of the gRPC status code."""
    reason: str = "UNKNOWN"
    """Machine-readable and stable; the status's name where the server gave none."""
    request_id: str | None = None
    """Names the request in the gateway's logs."""

    def __init__(
        self, message: str, *, status: str | None = None, reason: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.reason = reason or self.status
        self.request_id = request_id

    def to_dict(self) -> dict[str, str]:
        """Make plain JSON values, with the keys that `dermserve classify --json` prints under `error`."""
        return {"status": self.status, "reason": self.reason, "message": self.message}


class InvalidRequest(DermserveError):
    """The request can't be served as it is."""

    status = "INVALID_ARGUMENT"


class InvalidPhoto(InvalidRequest):
    """The photo can't be classified; the message says why and what to send instead."""


class UnreadablePhoto(InvalidPhoto):
    """The photo's file can't be read. `__cause__` is the OSError."""


class NotFound(DermserveError):
    """No such model, version or label; the message names those there are."""

    status = "NOT_FOUND"


class NotReady(DermserveError):
    """The version is known and can't answer."""

    status = "FAILED_PRECONDITION"


class AccessDenied(DermserveError):
    """The caller isn't known, or isn't allowed."""

    status = "PERMISSION_DENIED"


class Overloaded(DermserveError):
    """The gateway has more work than it can finish in time."""

    status = "RESOURCE_EXHAUSTED"
    retry_after: float | None = None
    """Seconds to wait before trying again; None where the server didn't say."""


class DeadlineExceeded(DermserveError):
    """No answer in time."""

    status = "DEADLINE_EXCEEDED"


class Unavailable(DermserveError):
    """No gateway answers, or no model server answers it."""

    status = "UNAVAILABLE"


class StreamBroke(Unavailable):
    """A stream broke, and why got lost."""


class Internal(DermserveError):
    """A defect: report it with the request id."""

    status = "INTERNAL"


_BY_STATUS: Mapping[str, type[DermserveError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "FAILED_PRECONDITION": NotReady,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Unavailable,  # not by us: the server or a proxy let go of the call
    "ABORTED": Unavailable,
}

PHOTO_REASONS = frozenset(
    {
        "EMPTY_IMAGE",
        "IMAGE_TOO_LARGE",
        "IMAGE_TOO_COMPLEX",
        "IMAGE_TOO_SMALL",
        "MESSAGE_TOO_LARGE",
        "TOO_MANY_PIXELS",
        "UNDECODABLE_IMAGE",
        "UNSUPPORTED_FORMAT",
    }
)
"""Reasons that blame the photo, whatever the status."""


class FailedCall(Protocol):
    """What is used of a grpc.RpcError, of either API."""

    def code(self) -> grpc.StatusCode | None:
        """Status code."""

    def details(self) -> str | None:
        """Message."""

    def trailing_metadata(self) -> Metadata | None:
        """Metadata sent with the status."""


def read_call(call: FailedCall, *, target: str, request_id: str | None = None) -> DermserveError:
    """Make an error from a failed call: from its google.rpc.Status where it carries one, else from gRPC's own words."""
    trailing = dict(call.trailing_metadata() or ())
    answered = trailing.get("x-request-id")
    request_id = answered if isinstance(answered, str) else request_id
    status = _parse_status(trailing.get(_DETAILS))
    if status is not None:
        return read_status(status, request_id=request_id)
    name = (call.code() or grpc.StatusCode.UNKNOWN).name
    return _transport_error(name, call.details() or "", target=target, request_id=request_id)


def read_status(status: status_pb2.Status, *, request_id: str | None = None) -> DermserveError:
    """Make an error from a google.rpc.Status."""
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    error_class = InvalidPhoto if info.reason in PHOTO_REASONS else _BY_STATUS.get(name, Internal)
    error = error_class(
        status.message,
        status=name,
        reason=info.reason,
        request_id=info.metadata.get("request_id") or request_id,
    )
    if isinstance(error, Overloaded) and retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return error


def _parse_status(details: str | bytes | None) -> status_pb2.Status | None:
    """Parse `grpc-status-details-bin`; a proxy may have mangled it."""
    if not isinstance(details, bytes):
        return None
    try:
        return status_pb2.Status.FromString(details)
    except DecodeError:
        return None


def _transport_error(name: str, details: str, *, target: str, request_id: str | None) -> DermserveError:
    """Make an error that gRPC or a proxy made, not the gateway."""
    if name == "RESOURCE_EXHAUSTED" and "message larger than max" in details.lower():
        return InvalidPhoto(
            f"the photo is larger than a message may be ({details}): send a smaller or more compressed one",
            status=name,
            reason="MESSAGE_TOO_LARGE",
            request_id=request_id,
        )
    message = {
        "UNAVAILABLE": f"no gateway answers at {target} ({details}): is it running, and is the address right?",
        "DEADLINE_EXCEEDED": f"no answer from {target} in time: allow more time, or ask for fewer views",
        "UNIMPLEMENTED": f"{target} answers and is not a dermserve gateway ({details}): is the address right?",
    }.get(name, details or f"the call failed with {name}")
    return _BY_STATUS.get(name, Internal)(message, status=name, request_id=request_id)
