"""Everything an operator may choose about the edge: each setting, its default and its help once, for both commands."""

import ipaddress
import json
import pathlib
import re
from dataclasses import dataclass, field, fields

SITE = pathlib.Path(__file__).with_name("site")
"""What is served as files: openapi.json, and the built page in app/."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class SettingsError(ValueError):
    """Settings that don't fit together, or a file that can't be used; the message names the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The edge's settings, which are the options of `dermserve edge config`. Paths are as Envoy sees them."""

    gateway: str = field(metadata={"help": "HOST:PORT of the gateway; each address of the name is used."})
    listen: str = field(default="127.0.0.1:8080", metadata={"help": "HOST:PORT to serve; port 0 takes a free one."})
    admin: str = field(
        default="127.0.0.1:9901", metadata={"help": "HOST:PORT of Envoy's admin interface, on the loopback."}
    )
    metrics: str | None = field(
        default=None, metadata={"help": "HOST:PORT for Prometheus (/stats/prometheus) and probes (/ready)."}
    )
    www: pathlib.Path = field(
        default=SITE, metadata={"help": "Folder to serve files from, made by `dermserve edge files`."}
    )
    www_seen: pathlib.Path | None = field(
        default=None, metadata={"help": "Where Envoy sees that folder, if elsewhere."}
    )
    tls_cert: pathlib.Path | None = field(default=None, metadata={"help": "TLS certificate chain, PEM."})
    tls_key: pathlib.Path | None = field(default=None, metadata={"help": "Its private key, PEM."})
    keys: pathlib.Path | None = field(
        default=None, metadata={"help": "File of API keys' digests, made by `dermserve edge key`."}
    )
    jwks: pathlib.Path | None = field(
        default=None, metadata={"help": "File of the keys that sign tokens (a JSON Web Key Set)."}
    )
    issuer: str | None = field(default=None, metadata={"help": "What a token's iss must be."})
    audience: tuple[str, ...] = field(
        default=(), metadata={"help": "What a token's aud must include one of; repeatable."}
    )
    open: bool = field(default=False, metadata={"help": "Let anyone who can reach it ask, without key or token."})
    origin: tuple[str, ...] = field(
        default=(), metadata={"help": "Origin of another page that may ask (CORS); repeatable."}
    )
    requests_per_minute: int = field(
        default=120, metadata={"help": "Of each client: API key, token's subject, or else address."}
    )
    burst: int = field(default=30, metadata={"help": "Requests at once of each client, after a pause."})
    max_photo_bytes: int = field(
        default=20_000_000, metadata={"help": "Of a photo; its base64 in JSON may be a third longer."}
    )
    upload_seconds: int = field(default=60, metadata={"help": "Timeout of receiving a request."})
    answer_seconds: int = field(
        default=65, metadata={"help": "Timeout of answering: above the gateway's own limit of 60."}
    )
    max_connections: int = field(default=1000, metadata={"help": "From all clients together."})
    max_streams: int = field(default=100, metadata={"help": "At once on one HTTP/2 connection."})
    heap_bytes: int = field(default=2**29, metadata={"help": "Memory near which Envoy sheds load."})
    gateway_tls_ca: pathlib.Path | None = field(
        default=None, metadata={"help": "CA of the gateway's certificate, PEM; plaintext without."}
    )
    gateway_tls_name: str | None = field(
        default=None, metadata={"help": "Name in that certificate; the gateway's host by default."}
    )
    gateway_tls_cert: pathlib.Path | None = field(
        default=None, metadata={"help": "Certificate to show to the gateway, PEM."}
    )
    gateway_tls_key: pathlib.Path | None = field(default=None, metadata={"help": "Its private key, PEM."})

    def __post_init__(self) -> None:
        for name in ("gateway", "listen", "admin", *(("metrics",) if self.metrics else ())):
            split_address(getattr(self, name), name=name)
        for one, other in (("tls_cert", "tls_key"), ("gateway_tls_cert", "gateway_tls_key"), ("jwks", "issuer")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                names = f"{one} and {other}".replace("_", "-")
                raise SettingsError(f"{names} go together: give both or neither")
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.type is int and value < 1:
                raise SettingsError(f"{setting.name} is {value}, and must be at least 1")
        self._check_reach()
        if self.keys:
            read_keys(self.keys)

    def _check_reach(self) -> None:
        if not _is_loopback(self.admin):
            raise SettingsError(f"admin is {self.admin}: it can stop Envoy, so it stays on the loopback (127.0.0.1)")
        if not _is_loopback(self.listen) and not self.authenticates and not self.open:
            raise SettingsError(
                f"listen is {self.listen}, which others can reach, and anyone could ask: set API keys or a JWKS, "
                "or say that it is open on purpose"
            )

    @property
    def authenticates(self) -> bool:
        """Whether an API key or a token is required."""
        return self.keys is not None or self.jwks is not None


def read_keys(path: pathlib.Path) -> dict[str, str]:
    """Read the digests of API keys from a JSON object, {"client": "sha256:<64 hexadecimal digits>", …}.

    Returns:
        Each client's digest, 64 hexadecimal digits.

    Raises:
        SettingsError: it can't be read or is something else; the message holds no key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise SettingsError(f"can't read API keys from {path}: {what}") from None
    if not isinstance(found, dict) or not found or not all(found):
        raise SettingsError(f'{path} must hold a JSON object of clients: {{"clinic": "sha256:…"}}')
    digests = {client: _DIGEST.fullmatch(text) for client, text in found.items() if isinstance(text, str)}
    if wrong := sorted(client for client in found if not digests.get(client)):
        raise SettingsError(
            f"{path} must hold digests, never keys: replace what it has for {', '.join(wrong)} by the output of "
            "`dermserve edge key`"
        )
    keys = {client: match[1] for client, match in digests.items() if match}
    if len(set(keys.values())) != len(keys):
        raise SettingsError(f"two clients in {path} have the same API key: give each its own")
    return keys


def split_address(address: str, *, name: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        SettingsError: it is something else.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{name} is {address!r}, and must be HOST:PORT")
    return host.strip("[]"), int(port)


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address, name="address")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
