"""How a client reaches a gateway: frozen options, the gRPC channel made from them, and the meaning of its failures."""

import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from dermserve.client._errors import DermserveError, read_call
from dermserve.client._proxies import Way, find_way, host_and_port, ip_address

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_DEADLINE = 30.0
"""Seconds."""

_BEGIN = b"-----BEGIN CERTIFICATE"
_SCHEMES = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")
"""Schemes of gRPC targets without a host; `dns`, `ipv4` and `ipv6` have one."""
_PEM = {"root_certificates": _BEGIN, "certificate_chain": _BEGIN, "private_key": b"PRIVATE KEY"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TLS:
    """Transport security. `TLS()` trusts the usual root certificates and shows no client certificate.

    Raises:
        ValueError: a client certificate without its key, a key without its certificate, or a file that is not such PEM.
    """

    root_certificates: bytes | None = None
    """PEM: the authorities to trust for the server's certificate; None: those in SSL_CERT_FILE, or gRPC's own."""
    certificate_chain: bytes | None = None
    """PEM: this client's certificate, for mutual TLS."""
    private_key: bytes | None = field(default=None, repr=False)
    """PEM: its key."""
    authority: str | None = None
    """Name to expect in the server's certificate, where it differs from the target's host."""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate and its key go together: give both, or neither")
        for name, kind in _PEM.items():
            if (data := getattr(self, name)) is not None and kind not in data:
                raise ValueError(f"{name} is no PEM file with {kind.decode()}-----")


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A client's options for reaching its gateway. Raises ValueError for an invalid one."""

    target: str = DEFAULT_TARGET
    tls: TLS | None = None
    attempts: int = 4
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_target(self.target)
        if not 1 <= self.attempts <= 5:  # gRPC's own cap
            raise ValueError(f"attempts must lie in 1..5, not {self.attempts}")

    @property
    def way(self) -> Way:
        """How gRPC gets to the target."""
        return find_way(self.target)

    def open(self, *more: tuple[str, Any]) -> grpc.Channel:
        """Open a channel, with more options; raise ValueError if SSL_CERT_FILE or a proxy's variable is not valid."""
        options, target = [*self.options(), *more], self.way.target
        if self.tls is None:
            return grpc.insecure_channel(target, options=options)
        roots = self.tls.root_certificates or _usual_roots()
        credentials = grpc.ssl_channel_credentials(roots, self.tls.private_key, self.tls.certificate_chain)
        return grpc.secure_channel(target, credentials, options=options)

    def options(self) -> list[tuple[str, Any]]:
        """Make channel arguments."""
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(self._service_config())),
            # The gateway limits photos, with a clearer error than the transport's.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # gRPC only retries calls that it still buffers; by default it buffers 256 KiB, less than a photo.
            ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
            # By default servers send GOAWAY to clients that ping more often than every 300 s (grpc#33661).
            ("grpc.keepalive_time_ms", 330_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # A gateway that restarted is found again within seconds; the default waits up to two minutes.
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        if self.way.proxy is None:
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls is not None and (name := self.tls.authority or self.way.name):
            options.append(("grpc.ssl_target_name_override", name))
        return options

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.attempts > 1:
            policy = {
                "maxAttempts": self.attempts,
                "initialBackoff": "0.1s",  # much less, and grpcio 1.85.1 hangs when jitter rounds it to 0 ms
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
            config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
            config["methodConfig"] = [{"name": [{"service": "dermserve.v1.Classifier"}], "retryPolicy": policy}]
        return config

    def call_metadata(self, request_id: str | None = None) -> tuple[tuple[str, str], ...]:
        """Make a call's metadata."""
        own = () if request_id is None else (("x-request-id", request_id),)
        return (*self.metadata.items(), *own)

    def failure(self, error: Any, request_id: str | None = None) -> DermserveError:
        """Make an error from a grpc.RpcError."""
        return read_call(error, target=self.target, request_id=request_id, proxy=self.way.proxy)


def check_deadline(seconds: float) -> float:
    """Return it; raise ValueError unless it is positive."""
    if not seconds > 0:
        raise ValueError(f"the deadline must be a positive number of seconds, not {seconds}")
    return seconds


def _check_target(target: str) -> None:
    scheme, slashes, rest = target.partition("://")
    if slashes and scheme in {"http", "https", "grpc", "grpcs"}:
        tls = ", with TLS" if scheme.endswith("s") else ""
        raise ValueError(f"the target must not be a URL: give {rest.split('/')[0] or DEFAULT_TARGET}{tls}")
    host, port = host_and_port(target)
    odd = target.partition(":")[0] not in _SCHEMES if host is None else ":" in host and ip_address(host) is None
    if odd or host == "" or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
        raise ValueError(f"the target {target!r} is not HOST:PORT: give, for example, {DEFAULT_TARGET} or [::1]:50051")


def _usual_roots() -> bytes | None:
    """Read the authorities that OpenSSL's variable names; gRPC's own variable takes precedence."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path or os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    try:
        roots = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"SSL_CERT_FILE names {path}, which can't be read: {error.strerror}") from error
    if _BEGIN not in roots:
        raise ValueError(f"SSL_CERT_FILE names {path}, which is no PEM file with {_BEGIN.decode()}-----")
    return roots
