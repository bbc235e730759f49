"""Starting an edge, asking it as curl would, and the keys that tests of it need."""

import base64
import contextlib
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dermserve.edge import Settings
from dermserve.local import Stack
from dermserve.local.edge import Edge
from dermserve.v1 import classifier_pb2_grpc

MODEL = "mobilenet_v3_small"
CLASSIFY = f"/v1/models/{MODEL}:classify"
JPEG = {"content-type": "image/jpeg"}
ISSUER = "https://issuer.example"
AUDIENCE = "dermserve"


def run(gateway: Stack | str, store: pathlib.Path, **settings: Any) -> contextlib.AbstractContextManager[Edge]:
    address = gateway if isinstance(gateway, str) else gateway.gateway_address
    many = {"requests_per_minute": 600_000, "burst": 10_000}
    return Edge(Settings(gateway=address, listen="127.0.0.1:0", **{**many, **settings}), store=store)


@contextlib.contextmanager
def gateway_of(servicer: classifier_pb2_grpc.ClassifierServicer) -> Iterator[int]:
    """Serve what answers for a gateway, and say that it is well; give the port."""
    server = grpc.server(ThreadPoolExecutor(4))
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    classifier_pb2_grpc.add_ClassifierServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Keys:
    """Who signs tokens."""

    jwks: pathlib.Path
    private: rsa.RSAPrivateKey

    @property
    def settings(self) -> dict[str, Any]:
        """The edge's settings for their tokens."""
        return {"jwks": self.jwks, "issuer": ISSUER, "audience": (AUDIENCE,)}

    def token(self, *without: str, **claims: Any) -> str:
        standard = {"iss": ISSUER, "aud": AUDIENCE, "sub": "carol", "exp": int(time.time()) + 600}
        claims = {name: value for name, value in {**standard, **claims}.items() if name not in without}
        parts = [{"alg": "RS256", "kid": "one"}, claims]
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_encoded(self.private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def make_keys(folder: pathlib.Path) -> Keys:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = private.public_key().public_numbers()
    jwk = {
        "kty": "RSA",
        "alg": "RS256",
        "kid": "one",
        "n": _encoded(numbers.n.to_bytes(256)),
        "e": _encoded(numbers.e.to_bytes(3)),
    }
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk]}))
    return Keys(path, private)


def write_keys(path: pathlib.Path, **keys: str) -> pathlib.Path:
    """Write a file of API keys' digests, made without the product's help."""
    digests = {client: f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for client, key in keys.items()}
    path.write_text(json.dumps(digests))
    return path


def ask(url: str, path: str, *, body: Any = None, method: str | None = None, **headers: str) -> requests.Response:
    """Ask; a photo is sent as the body, anything else as JSON."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if isinstance(body, bytes):
        named = {**JPEG, **named}
    how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    verb = method or ("GET" if body is None else "POST")
    return requests.request(verb, url + path, headers=named, timeout=100, **how)


def reason(response: requests.Response) -> str:
    """The machine-readable reason of an error, after a look at its shape."""
    status = response.json()
    assert set(status) == {"code", "message", "details"}
    (info,) = (detail for detail in status["details"] if detail["@type"].endswith("/google.rpc.ErrorInfo"))
    assert info["domain"] == "dermserve.v1"
    assert info["metadata"]["request_id"] == response.headers["x-request-id"]
    return str(info["reason"])
