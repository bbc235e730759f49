"""Every error a caller can meet, with its gRPC status and machine-readable reason."""

from collections.abc import Iterable, Mapping

import grpc

_SHOWN = 64  # characters of a caller's own text that an error repeats; trailing metadata has room for 8 kB in all
_LISTED = 20  # names that an error lists

_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: """
        MALFORMED_REQUEST MODEL_REQUIRED INVALID_VERSION INVALID_LABEL INVALID_TTA_MODE INVALID_ID EMPTY_IMAGE
        TOO_MANY_PIXELS IMAGE_TOO_COMPLEX IMAGE_TOO_SMALL UNSUPPORTED_FORMAT UNDECODABLE_IMAGE""",
    grpc.StatusCode.NOT_FOUND: "MODEL_NOT_FOUND VERSION_NOT_FOUND LABEL_NOT_FOUND",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "IMAGE_TOO_LARGE OVERLOADED OUT_OF_MEMORY MODEL_SERVER_BUSY",
    grpc.StatusCode.UNAVAILABLE: "MODEL_SERVER_UNREACHABLE MODEL_NOT_AVAILABLE GATEWAY_STOPPING",
    grpc.StatusCode.FAILED_PRECONDITION: "INVALID_CARD",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.INTERNAL: "INVALID_MODEL_OUTPUT MODEL_SERVER_FAILED INTERNAL",
}
STATUSES: Mapping[str, grpc.StatusCode] = {
    reason: status for status, reasons in _BY_STATUS.items() for reason in reasons.split()
}
"""The status of every reason."""
_RETRY_AFTER = {
    "OUT_OF_MEMORY": 1.0,
    "MODEL_SERVER_BUSY": 0.5,
    "MODEL_SERVER_UNREACHABLE": 1.0,
    "MODEL_NOT_AVAILABLE": 1.0,
    "GATEWAY_STOPPING": 1.0,
}
"""Seconds, where the same request may succeed later; an OVERLOADED one gets its own."""


class GatewayError(Exception):
    """An error that is meant for the caller: the message says what is wrong and what to do."""

    def __init__(self, reason: str, text: str, *, retry_after: float | None = None) -> None:
        """Make it of one of the reasons in `STATUSES`; `retry_after` are seconds."""
        super().__init__(text)
        self.reason, self.status = reason, STATUSES[reason]
        self.retry_after = _RETRY_AFTER.get(reason, retry_after)


class OverloadedError(GatewayError):
    """The gateway's queue is full, or the wait would be longer than the request's budget."""

    def __init__(self, seconds: float) -> None:
        text = f"too many requests at the moment: try again in {seconds:.2f} s or later"
        super().__init__("OVERLOADED", text, retry_after=seconds)


class ModelServerBusyError(GatewayError):
    """The model server refused the call because it is full."""

    def __init__(self) -> None:
        super().__init__("MODEL_SERVER_BUSY", "the model server is full: try again a little later")


class ModelServerUnreachableError(GatewayError):
    """The model server does not answer."""

    def __init__(self) -> None:
        super().__init__("MODEL_SERVER_UNREACHABLE", "the model server can't be reached: try again in a moment")


class ModelServerFailedError(GatewayError):
    """The model server failed to compute an answer."""

    def __init__(self) -> None:
        text = "the model server failed on this request: its operator finds the cause in the gateway's log"
        super().__init__("MODEL_SERVER_FAILED", text)


class InvalidModelOutputError(GatewayError):
    """The model server's answer is not that of a classifier."""

    def __init__(self, fault: str) -> None:
        super().__init__("INVALID_MODEL_OUTPUT", f"the model server's answer can't be used: {fault}")


class BudgetSpentError(GatewayError):
    """The request has no time left."""

    def __init__(self, stage: str) -> None:
        text = f"the request's time ran out ({stage}): allow it more, or ask for fewer views"
        super().__init__("DEADLINE_EXCEEDED", text)


def shown(text: str) -> str:
    """Quote a caller's own text for a message, shortened."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def listed(names: Iterable[object]) -> str:
    """List what exists for a message, shortened."""
    texts = [str(name) for name in names]
    more = [f"… ({len(texts)} in all)"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more]) or "none"
