"""Connect to a gateway: options, proxies, the channel, and errors of calls.

no_proxy may name subdomains, `*`, ports, addresses and networks, as for curl; gRPC only compares ends of names.
"""

import contextlib
import ipaddress
import json
import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc

from dermserve.client._errors import DermserveError, read_call

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_DEADLINE = 30.0  # seconds
_LONGEST = 1e9  # seconds; with much longer timeouts a call ends at once, as gRPC counts nanoseconds by 63 bits

_BEGIN = b"-----BEGIN CERTIFICATE"
_SCHEMES = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")  # of gRPC targets without a host
_PEM = {"root_certificates": _BEGIN, "certificate_chain": _BEGIN, "private_key": b"PRIVATE KEY"}
_KEY, _VALUE = re.compile(r"[0-9a-z_.-]+"), re.compile(r"[ -~]*")  # of metadata, as gRPC takes them
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASSES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
_NAMED = ("dns", "ipv4", "ipv6")  # schemes of gRPC targets that name a host


@dataclass(frozen=True, kw_only=True, slots=True)
class TLS:
    """Transport security. `TLS()` trusts the usual root certificates and shows no client certificate.

    Raises ValueError: a client certificate or key without the other, or something else than PEM.
    """

    root_certificates: bytes | None = None
    """PEM: the authorities to trust for the server's certificate; None: those in SSL_CERT_FILE, or gRPC's own."""
    certificate_chain: bytes | None = None  #: PEM: this client's certificate, for mutual TLS.
    private_key: bytes | None = field(default=None, repr=False)  #: PEM: its key.
    authority: str | None = None
    """Name to expect in the server's certificate, where it differs from the target's host."""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate and its key go together: give both, or neither")
        for name, kind in _PEM.items():
            if (data := getattr(self, name)) is not None and kind not in data:
                raise ValueError(f"{name} is no PEM file with {kind.decode()}-----")


@dataclass(frozen=True, slots=True)
class Way:
    """How a channel gets to a target."""

    target: str  # the target for gRPC
    proxy: str | None = None  # the proxy's address and the variable that names it, for messages; None without one
    name: str | None = None  # name to expect in a certificate, where `target` has another host


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A client's options for reaching its gateway. Raises ValueError for an invalid one."""

    target: str = DEFAULT_TARGET
    tls: TLS | None = None
    attempts: int = 4
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        scheme, slashes, rest = self.target.partition("://")
        if slashes and scheme in {"http", "https", "grpc", "grpcs"}:
            tls = ", with TLS" if scheme.endswith("s") else ""
            raise ValueError(f"the target must not be a URL: give {rest.split('/')[0] or DEFAULT_TARGET}{tls}")
        host, port = host_and_port(self.target)
        named = self.target.partition(":")[0]
        odd = named not in _SCHEMES if host is None else ":" in host and ip_address(host) is None
        if odd or host == "" or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
            given = f"the target {self.target!r} is not HOST:PORT"
            raise ValueError(f"{given}: give, for example, {DEFAULT_TARGET} or [::1]:50051")
        for key, value in self.metadata.items():
            if not (_KEY.fullmatch(key) and (key.endswith("-bin") or _VALUE.fullmatch(value))):
                raise ValueError(f"metadata {key!r}: names have 0-9 a-z _ - . alone, and values printable ASCII")
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
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.attempts > 1:
            policy = {
                "maxAttempts": self.attempts, "backoffMultiplier": 2, "maxBackoff": "2s",
                "initialBackoff": "0.1s",  # much less, and grpcio 1.85.1 hangs when jitter rounds it to 0 ms
                "retryableStatusCodes": ["UNAVAILABLE"],
            }  # fmt: skip
            config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
            config["methodConfig"] = [{"name": [{"service": "dermserve.v1.Classifier"}], "retryPolicy": policy}]
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(config)),
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

    def failure(self, error: Any, request_id: str | None = None) -> DermserveError:
        """Make an error from a grpc.RpcError."""
        return read_call(error, target=self.target, request_id=request_id, proxy=self.way.proxy)


def check_deadline(seconds: float) -> float:
    """Return it, or the longest that gRPC can count; raise ValueError unless it is positive."""
    if not seconds > 0:
        raise ValueError(f"the deadline must be a positive number of seconds, not {seconds}")
    return min(seconds, _LONGEST)


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


def find_way(target: str, environment: Mapping[str, str] = os.environ) -> Way:
    """Find the way to a gRPC target; raise ValueError for an invalid proxy.

    `localhost` becomes 127.0.0.1, where `dermserve up` listens: another program may listen on [::1].
    """
    host, port = host_and_port(target)
    if host == "localhost":
        return Way(f"127.0.0.1:{port or 443}", name="localhost")
    address = ip_address(host or "")
    address = getattr(address, "ipv4_mapped", None) or address
    if host is None or host.endswith(".localhost") or (address and (address.is_loopback or address.is_unspecified)):
        return Way(target)
    variable = next((name for name in _PROXIES if environment.get(name)), "")
    bypasses = next((found for name in _BYPASSES if (found := environment.get(name))), "")
    if not variable or any(_covers(entry, host, port) for entry in bypasses.replace(",", " ").split()):
        return Way(target)
    try:
        url = urlsplit(environment[variable])
        proxy = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        named = f"{proxy}:{url.port or 80} ({variable})"
    except ValueError:
        raise ValueError(f"{variable} is not the URL of a proxy: give http://HOST:PORT") from None
    return Way(target, proxy=named if url.scheme == "http" and proxy else None)  # gRPC leaves other schemes aside


def host_and_port(target: str) -> tuple[str | None, str]:
    """Take host and port out of a gRPC target; no host when it names none, as a socket's path does not."""
    scheme, colon, rest = target.partition(":")
    schemed = scheme in _NAMED or (scheme and not rest.split(",")[0].isdecimal())
    if colon and schemed and not target.startswith("[") and ip_address(target) is None:
        if scheme not in _NAMED:
            return None, ""
        target = rest.rpartition("/")[2]
    host, port = _split(target.split(",")[0])
    return host.lower().rstrip("."), port


def _split(address: str) -> tuple[str, str]:
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, rest.removeprefix(":")
    if address.count(":") > 1:
        return address, ""
    host, _, port = address.partition(":")
    return host, port


def _covers(entry: str, host: str, port: str) -> bool:
    if entry == "*":
        return True
    name, its_port = (entry, "") if "/" in entry else _split(entry.lower())
    if its_port not in ("", port):
        return False
    address = ip_address(host)
    with contextlib.suppress(ValueError):
        network = ipaddress.ip_network(name, strict=False)
        return address is not None and address in network
    name = name.lstrip("*").strip(".")
    return address is None and name != "" and f".{host}".endswith(f".{name}")


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address; None for a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None
