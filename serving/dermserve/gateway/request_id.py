"""The name of a request in logs and answers: the caller's, if it is fit for a log line, or a new one."""

import re
import secrets
from collections.abc import Iterable

from dermserve.gateway.status import REQUEST_ID_KEY

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_request_id(metadata: "Iterable[tuple[str, str | bytes]]") -> str:
    """Return the caller's `x-request-id` when it is 1 to 64 of [A-Za-z0-9._-], else 32 random hexadecimal digits."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _FIT.fullmatch(value):
            return value
    return secrets.token_hex(16)


def read_trace_id(metadata: "Iterable[tuple[str, str | bytes]]") -> str | None:
    """Return the trace id of the caller's W3C `traceparent`, or None when there is none that is well-formed."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str) and (match := _TRACEPARENT.fullmatch(value)):
            return match[1]
    return None
