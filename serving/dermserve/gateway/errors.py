"""Every error a caller can meet, with its gRPC status and machine-readable reason.

GatewayError
├── InvalidRequestError            INVALID_ARGUMENT
│   ├── MalformedRequestError          MALFORMED_REQUEST
│   ├── MissingModelError              MODEL_REQUIRED
│   ├── InvalidVersionError            INVALID_VERSION
│   ├── InvalidLabelError              INVALID_LABEL
│   ├── InvalidTtaModeError            INVALID_TTA_MODE
│   └── InvalidItemIdError             INVALID_ID (of a stream's photo)
├── NotFoundError                  NOT_FOUND
│   ├── UnknownModelError              MODEL_NOT_FOUND
│   ├── UnknownVersionError            VERSION_NOT_FOUND
│   └── UnknownLabelError              LABEL_NOT_FOUND
├── RefusedPhotoError              INVALID_ARGUMENT or, of a file that is too large, RESOURCE_EXHAUSTED,
│                                      and the PhotoError's own reason
├── ExhaustedError                 RESOURCE_EXHAUSTED
│   ├── OverloadedError                OVERLOADED, with RetryInfo
│   ├── OutOfMemoryError               OUT_OF_MEMORY, with RetryInfo
│   └── ModelServerBusyError           MODEL_SERVER_BUSY, with RetryInfo
├── UnavailableError               UNAVAILABLE, with RetryInfo
│   ├── ModelServerUnreachableError    MODEL_SERVER_UNREACHABLE
│   ├── ModelNotAvailableError         MODEL_NOT_AVAILABLE
│   └── StoppingError                  GATEWAY_STOPPING
├── InvalidCardError               FAILED_PRECONDITION, INVALID_CARD
├── BudgetSpentError               DEADLINE_EXCEEDED, DEADLINE_EXCEEDED
└── InternalError                  INTERNAL, INTERNAL: anything unintended
    ├── InvalidModelOutputError        INVALID_MODEL_OUTPUT
    └── ModelServerFailedError         MODEL_SERVER_FAILED
"""

from collections.abc import Iterable
from typing import ClassVar

import grpc

from dermserve.imaging import PhotoError, TooManyBytesError

_SHOWN = 64  # characters of a caller's own text that an error repeats; trailing metadata has room for 8 kB in all
_LISTED = 20  # names that an error lists


class ListenError(OSError):
    """The gateway can't listen on an address, and does not start."""


class GatewayError(Exception):
    """An error that is meant for the caller: the message says what is wrong and what to do."""

    status = grpc.StatusCode.UNKNOWN
    reason: str = "UNKNOWN"  # machine-readable and stable: ErrorInfo.reason
    text: ClassVar[str] = ""  # the message, if it is always the same
    retry_after: float | None = None  # seconds (RetryInfo); None if trying again does not help

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or self.text)


class InvalidRequestError(GatewayError):
    """The request itself is wrong; sending it again does not help."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class MalformedRequestError(InvalidRequestError):
    """The bytes are not a message of the method."""

    reason = "MALFORMED_REQUEST"
    text = "the request is not a message of this method: was it made from another version of the API?"


class MissingModelError(InvalidRequestError):
    """The request names no model."""

    reason = "MODEL_REQUIRED"
    text = "no model named: set model.name; ListModels says which there are"


class InvalidVersionError(InvalidRequestError):
    """A version that can't exist."""

    reason = "INVALID_VERSION"

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} can't exist, versions start at 1: leave it out for the latest")


class InvalidLabelError(InvalidRequestError):
    """A label that can't exist."""

    reason = "INVALID_LABEL"
    text = 'a label has 1 to 128 characters, for example "stable": leave it out for the latest version'


class InvalidTtaModeError(InvalidRequestError):
    """A TTA mode this gateway does not know."""

    reason = "INVALID_TTA_MODE"

    def __init__(self, mode: int, known: Iterable[str]) -> None:
        super().__init__(f"TTA mode {mode} is not known here: send one of {listed(known)}")


class InvalidItemIdError(InvalidRequestError):
    """The id of a stream's photo is missing, too long, or that of another photo in flight."""

    reason = "INVALID_ID"


class RefusedPhotoError(GatewayError):
    """A photo that is too large, can't be decoded or has an unsupported format."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_PHOTO"

    def __init__(self, error: PhotoError) -> None:
        super().__init__(str(error))
        self.reason = error.reason
        if isinstance(error, TooManyBytesError):
            self.status = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFoundError(GatewayError):
    """Something that the request names does not exist."""

    status = grpc.StatusCode.NOT_FOUND


class UnknownModelError(NotFoundError):
    """A model this gateway does not serve."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, known: Iterable[str]) -> None:
        super().__init__(f"model {shown(model)} is not served here: there is {listed(known)}")


class UnknownVersionError(NotFoundError):
    """A version that can't answer, or never existed."""

    reason = "VERSION_NOT_FOUND"

    def __init__(self, model: str, version: int, known: Iterable[int]) -> None:
        super().__init__(f"version {version} of {shown(model)} is not available: there is {listed(known)}")


class UnknownLabelError(NotFoundError):
    """A label the model server does not know."""

    reason = "LABEL_NOT_FOUND"

    def __init__(self, model: str, label: str, known: Iterable[str]) -> None:
        super().__init__(f"label {shown(label)} of {shown(model)} does not exist: there is {listed(known)}")


class ExhaustedError(GatewayError):
    """The service has no capacity for the request."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class OverloadedError(ExhaustedError):
    """The gateway's queue is full, or the wait would be longer than the request's budget."""

    reason = "OVERLOADED"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many requests at the moment: try again in {seconds:.2f} s or later")
        self.retry_after = seconds


class OutOfMemoryError(ExhaustedError):
    """No memory was left for the request."""

    reason = "OUT_OF_MEMORY"
    retry_after = 1.0
    text = "the gateway has no memory left for this photo: try again, or send a smaller one"


class ModelServerBusyError(ExhaustedError):
    """The model server refused the call because it is full."""

    reason = "MODEL_SERVER_BUSY"
    retry_after = 0.5
    text = "the model server is full: try again a little later"


class UnavailableError(GatewayError):
    """The request can't be answered now; the same request may succeed later."""

    status = grpc.StatusCode.UNAVAILABLE
    retry_after = 1.0


class ModelServerUnreachableError(UnavailableError):
    """The model server does not answer."""

    reason = "MODEL_SERVER_UNREACHABLE"
    text = "the model server can't be reached: try again in a moment"


class ModelNotAvailableError(UnavailableError):
    """No version of a configured model can answer."""

    reason = "MODEL_NOT_AVAILABLE"

    def __init__(self, model: str) -> None:
        super().__init__(f"no version of {shown(model)} is available at the moment: try again, or another model")


class StoppingError(UnavailableError):
    """The gateway is stopping: it finishes accepted requests and takes no new ones."""

    reason = "GATEWAY_STOPPING"
    text = "this gateway is stopping: try again, another one or its successor will answer"


class InvalidCardError(GatewayError):
    """The version has no valid card, so its answers can't be interpreted."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "INVALID_CARD"

    def __init__(self, model: str, version: int, fault: str) -> None:
        super().__init__(f"version {version} of {shown(model)} has no valid card ({fault}): choose another version")


class BudgetSpentError(GatewayError):
    """The request has no time left."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, stage: str) -> None:
        super().__init__(f"the request's time ran out ({stage}): allow it more, or ask for fewer views")


class InternalError(GatewayError):
    """An unexpected error. The detail is in the log under the request id, never in the message."""

    status = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"
    text = "internal error"


class InvalidModelOutputError(InternalError):
    """The model server's answer is not that of a classifier."""

    reason = "INVALID_MODEL_OUTPUT"

    def __init__(self, fault: str) -> None:
        super().__init__(f"the model server's answer can't be used: {fault}")


class ModelServerFailedError(InternalError):
    """The model server failed to compute an answer."""

    reason = "MODEL_SERVER_FAILED"
    text = "the model server failed on this request: its operator finds the cause in the gateway's log"


def shown(text: str) -> str:
    """Quote a caller's own text for a message, shortened."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def listed(names: Iterable[object]) -> str:
    """List what exists for a message, shortened."""
    texts = [str(name) for name in names]
    more = [f"… ({len(texts)} in all)"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more]) or "none"
