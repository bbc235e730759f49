"""What the server answers when it can't do what was asked: TF Serving's codes with TF Serving's messages.

    Exception
    └── ServingError            a status code and a message, sent to the caller as they are
        └── StartError          the process can't serve: printed, exit code 255

Status codes of TensorFlow, TF Serving and gRPC are the same numbers with the same names.
"""

import logging

import grpc

_logger = logging.getLogger(__name__)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A failure with the status code and the message that the caller is to see."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Render as TensorFlow prints a status: `NOT_FOUND: no such thing`."""
        return f"{self.code.name}: {self.message}"


class StartError(ServingError):
    """The server can't start; the message is printed as the real one prints it."""


def from_code(code: int, message: str) -> ServingError:
    """Build the error for a status code of TensorFlow's C library."""
    return ServingError(_CODES.get(code, grpc.StatusCode.UNKNOWN), message)


def internal(error: Exception) -> ServingError:
    """Stand for a fault of the server's own: the detail goes to the log, not to the caller."""
    _logger.error("internal error", exc_info=error)
    return ServingError(grpc.StatusCode.INTERNAL, "internal error")


def stopping() -> ServingError:
    """Answer what waited when the server was told to stop."""
    return ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


def invalid_argument(message: str) -> ServingError:
    """Build an INVALID_ARGUMENT."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Build a NOT_FOUND."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """Build a FAILED_PRECONDITION."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
