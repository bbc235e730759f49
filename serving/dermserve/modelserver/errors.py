"""Errors that callers see: TensorFlow Serving's status codes, whose numbers are gRPC's, and messages."""

import functools
import logging

import grpc

_logger = logging.getLogger(__name__)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """What this package raises: a failure with the status code and message that the caller gets."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Render as TensorFlow prints a status: `NOT_FOUND: no such file`."""
        return f"{self.code.name}: {self.message}"


def internal(error: Exception) -> ServingError:
    """Make the INTERNAL error for a bug of this server. The detail goes to the log, not to the caller."""
    _logger.error("internal error", exc_info=error)
    return ServingError(grpc.StatusCode.INTERNAL, "internal error")


invalid_argument = functools.partial(ServingError, grpc.StatusCode.INVALID_ARGUMENT)
not_found = functools.partial(ServingError, grpc.StatusCode.NOT_FOUND)
failed_precondition = functools.partial(ServingError, grpc.StatusCode.FAILED_PRECONDITION)
