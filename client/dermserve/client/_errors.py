"""What can go wrong when a photo is classified, and how the wire's errors become these.

DermserveError
├── InvalidRequest             INVALID_ARGUMENT: mend the request
│   └── InvalidPhoto           the photo: empty, too large, damaged, in another format
│       ├── TooLarge           more bytes than the gateway, a message or a proxy takes
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

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
# gRPC's message if the peer speaks HTTP/2 but not gRPC: a proxy, or another service.
_HTTP_STATUS = re.compile(r"http2? header with status: (\d{3})", re.IGNORECASE)
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class DermserveError(Exception):
    """Base of every error of a call. `str()` gives what is wrong and what to do."""

    status: str = "UNKNOWN"
    """Name of the gRPC status code."""
    reason: str = "UNKNOWN"
    """Machine-readable and stable; the status's name where the server gave none."""
    request_id: str | None = None
    """Names the request in the gateway's logs."""
    retry_after: float | None = None
    """Seconds to wait before retrying; None if the server gave none."""

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
        """Where cause and remedy are written down."""
        return f"docs/errors.md#{self.reason.lower()}"

    def to_dict(self) -> dict[str, str]:
        """Make plain JSON values, with the keys that `dermserve classify --json` prints under `error`."""
        return {"status": self.status, "reason": self.reason, "message": self.message}


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
    "CANCELLED": Unavailable,  # not by us: the server or a proxy cancelled the call
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


_SIZE_REASONS = frozenset({"IMAGE_TOO_LARGE", "MESSAGE_TOO_LARGE"})


class FailedCall(Protocol):
    """What is used of a grpc.RpcError, of either API."""

    def code(self) -> grpc.StatusCode | None:
        """Status code."""

    def details(self) -> str | None:
        """Message."""

    def trailing_metadata(self) -> Metadata | None:
        """Metadata sent with the status."""


def read_call(
    call: FailedCall, *, target: str, request_id: str | None = None, proxy: str | None = None
) -> DermserveError:
    """Make an error from a failed call: from its google.rpc.Status if it has one, else from gRPC's status and message.

    Args:
        call: the call.
        target: what the caller named.
        request_id: of the request, where the answer names none.
        proxy: the HTTP proxy on the way, and which variable names it.
    """
    trailing = dict(call.trailing_metadata() or ())
    answered = trailing.get("x-request-id")
    request_id = answered if isinstance(answered, str) else request_id
    status = _parse_status(trailing.get(_DETAILS))
    if status is not None:
        return read_status(status, request_id=request_id)
    name, details = (call.code() or grpc.StatusCode.UNKNOWN).name, call.details() or ""
    if found := _HTTP_STATUS.search(details):
        error = _http_error(int(found[1]), target=target)
    else:
        error = _transport_error(name, details, target=target, proxy=proxy)
    error.request_id = request_id
    return error


def read_status(status: status_pb2.Status, *, request_id: str | None = None) -> DermserveError:
    """Make an error from a google.rpc.Status."""
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    error = _class_of(name, info.reason)(
        status.message,
        status=name,
        reason=info.reason,
        request_id=info.metadata.get("request_id") or request_id,
    )
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return error


def too_large(message: str) -> TooLarge:
    """Make the error for a photo that doesn't fit into a message."""
    return TooLarge(f"{message}: send a smaller or more compressed one", reason="MESSAGE_TOO_LARGE")


def _class_of(name: str, reason: str) -> type[DermserveError]:
    if reason in _SIZE_REASONS:
        return TooLarge
    return InvalidPhoto if reason in PHOTO_REASONS else _BY_STATUS.get(name, Internal)


def _parse_status(details: str | bytes | None) -> status_pb2.Status | None:
    """Parse `grpc-status-details-bin`; a proxy may have mangled it."""
    if not isinstance(details, bytes):
        return None
    try:
        return status_pb2.Status.FromString(details)
    except DecodeError:
        return None


def _transport_error(name: str, details: str, *, target: str, proxy: str | None) -> DermserveError:
    """Make an error that gRPC made, not the gateway."""
    if name == "RESOURCE_EXHAUSTED" and "message larger than max" in details.lower():
        return too_large(f"the photo is larger than a message may be ({details})")
    way = f"{target} through the proxy {proxy}; list the host in no_proxy to go without it" if proxy else target
    message = {
        "UNAVAILABLE": f"no gateway answers at {way} ({details}): is it running, and is the address right?",
        "DEADLINE_EXCEEDED": f"no answer from {way} in time: allow more time, or ask for fewer views",
        "UNIMPLEMENTED": f"{way} answers and is not a dermserve gateway ({details}): is the address right?",
    }.get(name, details or f"the call failed with {name}")
    return _BY_STATUS.get(name, Internal)(message, status=name)


_BY_HTTP: Mapping[int, tuple[type[DermserveError], str]] = {
    401: (AccessDenied, "wants credentials: give them as metadata"),
    403: (AccessDenied, "does not let this request pass"),
    404: (NotFound, "has no route to a gateway: is the address right, and does it pass gRPC on?"),
    405: (NotFound, "does not take gRPC's requests: is the address right, and does it pass gRPC on?"),
    407: (AccessDenied, "wants proxy credentials"),
    408: (DeadlineExceeded, "gave up waiting for the photo"),
    413: (TooLarge, "takes no photo of this size: a proxy's limit, not the gateway's. Send a smaller one, or raise it"),
    415: (NotFound, "does not take gRPC's requests: is the address right, and does it pass gRPC on?"),
    429: (Overloaded, "says that there are too many requests: try again later"),
    500: (Internal, "failed"),
    501: (NotFound, "does not take gRPC's requests: is the address right, and does it pass gRPC on?"),
    502: (Unavailable, "can't reach the gateway behind it: try again in a moment"),
    503: (Unavailable, "can't reach the gateway behind it: try again in a moment"),
    504: (Unavailable, "got no answer from the gateway behind it in time: try again in a moment"),
    505: (NotFound, "does not take gRPC's requests: is the address right, and does it pass gRPC on?"),
}


def _http_error(code: int, *, target: str) -> DermserveError:
    """Make an error from the HTTP status of a proxy's own answer."""
    other = (Unavailable if code >= 500 else InvalidRequest, "refuses the request")
    error_class, words = _BY_HTTP.get(code, other)
    reason = "MESSAGE_TOO_LARGE" if error_class is TooLarge else f"HTTP_{code}"
    return error_class(f"a proxy at or before {target} {words} (HTTP {code})", reason=reason)
