"""Asking over HTTP, as curl would."""

from typing import Any

import requests

MODEL = "mobilenet_v3_small"
CLASSIFY = f"/v1/models/{MODEL}:classify"
JPEG = {"content-type": "image/jpeg"}


def ask(url: str, path: str, *, body: Any = None, method: str | None = None, **headers: str) -> requests.Response:
    """Ask; a photo is sent as the body, anything else as JSON."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if isinstance(body, bytes):
        named = {**JPEG, **named}
    how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    verb = method or ("GET" if body is None else "POST")
    return requests.request(verb, url + path, headers=named, timeout=60, **how)


def reason(response: requests.Response) -> str:
    """The machine-readable reason of an error, after a look at its shape."""
    status = response.json()
    assert set(status) == {"code", "message", "details"}
    (info,) = (detail for detail in status["details"] if detail["@type"].endswith("/google.rpc.ErrorInfo"))
    assert info["domain"] == "dermserve.v1"
    assert info["metadata"]["request_id"] == response.headers["x-request-id"]
    return str(info["reason"])
