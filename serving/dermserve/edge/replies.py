"""What Envoy itself answers, in the words and the shape of the gateway's own errors: google.rpc.Status as JSON."""

from dermserve.edge.typed import Json

_DOMAIN = "dermserve.v1"
_INVALID, _DEADLINE, _NOT_FOUND, _DENIED, _EXHAUSTED, _UNAVAILABLE, _UNAUTHENTICATED, _INTERNAL = (
    3, 4, 5, 7, 8, 14, 16, 13,
)  # fmt: skip

# HTTP status: gRPC's code, reason, message. Without a message, Envoy's own says what was wrong.
_REPLIES: dict[int, tuple[int, str, str]] = {
    400: (_INVALID, "MALFORMED_REQUEST", ""),
    401: (_UNAUTHENTICATED, "UNAUTHENTICATED", "send a valid API key (x-api-key) or token (Authorization: Bearer …)"),
    403: (_DENIED, "PERMISSION_DENIED", "this key or token is not valid here"),
    404: (_NOT_FOUND, "NO_SUCH_ROUTE", "there is nothing at this path: /openapi.json lists what there is"),
    405: (_INVALID, "METHOD_NOT_ALLOWED", "this path takes another method: /openapi.json says which"),
    408: (_DEADLINE, "UPLOAD_TOO_SLOW", "the request did not arrive in time: send a smaller photo or try again"),
    413: (_EXHAUSTED, "IMAGE_TOO_LARGE", "the request is too large: send a smaller photo"),
    415: (_INVALID, "UNSUPPORTED_FORMAT", "send a JPEG, PNG or WebP file, or JSON"),
    426: (_INVALID, "MALFORMED_REQUEST", ""),
    429: (_EXHAUSTED, "RATE_LIMITED", "too many requests: try again after a while (x-ratelimit-reset says when)"),
    431: (_INVALID, "MALFORMED_REQUEST", "the request's headers are too large"),
    500: (_INTERNAL, "INTERNAL", "internal error"),
    502: (_UNAVAILABLE, "UNAVAILABLE", "the gateway gave no valid answer: try again"),
    503: (_UNAVAILABLE, "UNAVAILABLE", "no gateway can answer: try again after a while"),
    504: (_DEADLINE, "DEADLINE_EXCEEDED", "no answer in time: ask for fewer views or try again"),
}


def local_replies() -> Json:
    """Make the local reply configuration. gRPC callers get Envoy's plain words, which become grpc-message."""
    return {"mappers": [_mapper(status, *reply) for status, reply in _REPLIES.items()]}


def _mapper(status: int, code: int, reason: str, message: str) -> Json:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": _DOMAIN,
        "metadata": {"request_id": "%REQ(X-REQUEST-ID)%"},
    }
    body = {"code": code, "message": message or "the request is malformed: %LOCAL_REPLY_BODY%", "details": [info]}
    return {
        "filter": {"and_filter": {"filters": [_status_is(status), _NOT_GRPC]}},
        "body_format_override": {"json_format": body, "content_type": "application/json", "omit_empty_values": True},
    }


def _status_is(status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"dermserve.reply.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


_NOT_GRPC: Json = {
    "or_filter": {
        "filters": [
            {
                "header_filter": {
                    "header": {
                        "name": "content-type",
                        "string_match": {"prefix": "application/grpc"},
                        "invert_match": True,
                        "treat_missing_header_as_empty": True,
                    }
                }
            },
            # A request that the transcoder has begun to turn into gRPC.
            {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True}}},
        ]
    }
}
