"""The errors of a call, and how they are made from the wire's errors.

DermserveError
├── InvalidRequest             INVALID_ARGUMENT
│   └── InvalidPhoto
│       ├── TooLarge           RESOURCE_EXHAUSTED
│       └── UnreadablePhoto
├── NotFound                   NOT_FOUND
├── NotReady                   FAILED_PRECONDITION
├── AccessDenied               UNAUTHENTICATED, PERMISSION_DENIED
├── Overloaded                 RESOURCE_EXHAUSTED
├── DeadlineExceeded           DEADLINE_EXCEEDED
├── Unavailable                UNAVAILABLE
└── Internal                   anything else
"""

# ruff: noqa: N818 - named for gRPC statuses, which have no suffix Error

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

# gRPC's message if the peer speaks HTTP/2 but not gRPC: a proxy, or another service.
_HTTP_STATUS = re.compile(r"http2? header with status: (\d{3})", re.IGNORECASE)


class DermserveError(Exception):
    """Base of every error of a call. `str()` gives what is wrong and what to do."""

    status: str = "UNKNOWN"  #: Name of the gRPC status code.
    reason: str = "UNKNOWN"  #: Machine-readable and stable; the status's name where the server gave none.
    request_id: str | None = None  #: Names the request in the gateway's logs.
    retry_after: float | None = None  #: Seconds to wait before retrying; None if the server gave none.

    def __init__(
        self, message: str, *, status: str | None = None, reason: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.reason = reason or self.status
        self.request_id = request_id

    @property
    def help(self) -> str:
        """The section of the docs with cause and remedy."""
        return f"docs/errors.md#{'http' if self.reason.startswith('HTTP_') else self.reason.lower()}"

    def to_dict(self) -> dict[str, str | None]:
        """Make plain JSON values, with the keys that `dermserve classify --json` prints under `error`."""
        return {name: getattr(self, name) for name in ("status", "reason", "message", "request_id")}


class InvalidRequest(DermserveError):
    """The request can't be served as it is."""

    status = "INVALID_ARGUMENT"


class InvalidPhoto(InvalidRequest):
    """The photo can't be classified; the message has the reason and what to send instead."""


class TooLarge(InvalidPhoto):
    """The photo has more bytes than the gateway, a message or a proxy on the way takes."""

    status = "RESOURCE_EXHAUSTED"


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
    """The gateway's queue is full; retry after `retry_after` seconds."""

    status = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(DermserveError):
    """No answer in time."""

    status = "DEADLINE_EXCEEDED"


class Unavailable(DermserveError):
    """No gateway answers, or no model server answers it."""

    status = "UNAVAILABLE"


class Internal(DermserveError):
    """A defect: report it with the request id."""

    status = "INTERNAL"


_KINDS = (InvalidRequest, NotFound, NotReady, AccessDenied, Overloaded, DeadlineExceeded, Unavailable)
_BY_STATUS: Mapping[str, type[DermserveError]] = {kind.status: kind for kind in _KINDS} | {
    "OUT_OF_RANGE": InvalidRequest,
    "UNAUTHENTICATED": AccessDenied,
    "CANCELLED": Unavailable,  # not by us: the server or a proxy cancelled the call
    "ABORTED": Unavailable,
}

_OTHERS = (
    "EMPTY_IMAGE", "IMAGE_TOO_COMPLEX", "IMAGE_TOO_SMALL", "TOO_MANY_PIXELS", "UNDECODABLE_IMAGE", "UNSUPPORTED_FORMAT",
)  # fmt: skip
PHOTO_REASONS: Mapping[str, type[InvalidPhoto]] = {
    "IMAGE_TOO_LARGE": TooLarge, "MESSAGE_TOO_LARGE": TooLarge, **dict.fromkeys(_OTHERS, InvalidPhoto)
}  # fmt: skip
"""Reasons that blame the photo, whatever the status."""


def read_call(call: Any, *, target: str, request_id: str | None = None, proxy: str | None = None) -> DermserveError:
    """Make an error from a failed call, a grpc.RpcError: from its google.rpc.Status, else from gRPC's own.

    `request_id` is for an answer that names none; `proxy` is the HTTP proxy on the way, and the variable that names it.
    """
    trailing = dict(call.trailing_metadata() or ())
    request_id = trailing.get("x-request-id", request_id)
    with contextlib.suppress(DecodeError, KeyError):  # a proxy may have mangled it
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        return read_status(status, request_id=request_id)
    name, details = (call.code() or grpc.StatusCode.UNKNOWN).name, call.details() or ""
    if found := _HTTP_STATUS.search(details):
        error = _http_error(int(found[1]), target=target)
    else:
        error = transport_error(name, details, target=target, proxy=proxy)
    error.request_id = request_id
    return error


def read_status(status: status_pb2.Status, *, request_id: str | None = None) -> DermserveError:
    """Make an error from a google.rpc.Status."""
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    kind = PHOTO_REASONS.get(info.reason) or _BY_STATUS.get(name, Internal)
    request_id = info.metadata.get("request_id") or request_id
    error = kind(status.message, status=name, reason=info.reason, request_id=request_id)
    if (seconds := retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9) > 0:
        error.retry_after = seconds
    return error


def too_large(message: str) -> TooLarge:
    """Make the error for a photo that doesn't fit into a message."""
    return TooLarge(f"{message}: send a smaller or more compressed one", reason="MESSAGE_TOO_LARGE")


def transport_error(name: str, details: str = "", *, target: str, proxy: str | None) -> DermserveError:
    """Make an error that gRPC made, not the gateway."""
    if name == "RESOURCE_EXHAUSTED" and "message larger than max" in details.lower():
        return too_large(f"the photo is larger than a message may be ({details})")
    way = f"{target} through the proxy {proxy}" if proxy else target
    advice = "; list the host in no_proxy to go without the proxy" if proxy else ""
    message = {
        "UNAVAILABLE": f"no gateway answers at {way} ({details}): is it running, and is the address right?",
        "DEADLINE_EXCEEDED": f"no answer from {way} in time: allow more time, or ask for fewer views",
        "UNIMPLEMENTED": f"{way} answers and is not a dermserve gateway ({details}): is the address right?",
    }.get("UNIMPLEMENTED" if details == "No status received" else name, details or f"the call failed with {name}")
    return _BY_STATUS.get(name, Internal)(message + advice, status=name)


def _http_error(code: int, *, target: str) -> DermserveError:
    by = f"a proxy at or before {target}"
    if code == 413:
        return too_large(f"{by} takes no photo of this size (HTTP 413), which is not the gateway's limit")
    kind: type[DermserveError] = InvalidRequest if code < 500 else Unavailable
    kind = {401: AccessDenied, 403: AccessDenied, 407: AccessDenied, 429: Overloaded}.get(code, kind)
    advice = "is the address right, does it pass gRPC on, and are credentials needed?"
    return kind(f"{by} answers HTTP {code} in place of the gateway: {advice}", reason=f"HTTP_{code}")
