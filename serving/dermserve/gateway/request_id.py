"""The name of a request in logs and answers: the caller's, if it is fit for a log line, or a new one."""

import re
import uuid
from collections.abc import Iterable

from dermserve.gateway.status import REQUEST_ID_KEY

_FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_request_id(metadata: "Iterable[tuple[str, str | bytes]]") -> str:
    """Return the caller's `x-request-id` when it is 1 to 64 of [A-Za-z0-9._-], else 32 random hexadecimal digits."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _FIT.fullmatch(value):
            return value
    return uuid.uuid4().hex
