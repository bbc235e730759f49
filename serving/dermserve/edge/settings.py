"""Everything an operator may choose about the edge: frozen, each field documented here."""

import ipaddress
import json
import pathlib
from dataclasses import dataclass, field

SITE = pathlib.Path(__file__).with_name("site")
"""What is served as files: openapi.json, and the built page in app/."""


class SettingsError(ValueError):
    """Settings that don't fit together, or a file that can't be used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """Who may ask with a JSON Web Token."""

    jwks: pathlib.Path
    """File with the keys (a JSON Web Key Set), as Envoy sees it; read again when Envoy starts."""
    issuer: str
    """What `iss` must say."""
    audiences: tuple[str, ...] = ()
    """What `aud` must hold one of; not looked at when empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The edge's settings. Paths are as Envoy sees them."""

    gateway: str
    """HOST:PORT of the gateway; a name is resolved again and again, and each of its addresses is used."""
    listen: str = "127.0.0.1:8080"
    """HOST:PORT to serve; port 0 takes a free one."""
    admin: str = "127.0.0.1:9901"
    """HOST:PORT of Envoy's admin interface, which can stop it: on the loopback alone."""
    metrics: str | None = None
    """HOST:PORT that gives Prometheus /stats/prometheus and probes /ready, and nothing else."""
    www: pathlib.Path = SITE
    """Folder whose files are served; its app/ holds the built page."""
    www_seen: pathlib.Path | None = None
    """Where Envoy sees that folder, when elsewhere."""
    certificate: pathlib.Path | None = None
    """TLS certificate chain, PEM."""
    key: pathlib.Path | None = None
    """Its key, PEM."""
    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """API keys: (client, key) pairs."""
    jwt: Jwt | None = None
    """Tokens; either a key or a token is enough where both are set."""
    open: bool = False
    """Whether anyone may ask, without key or token, although others than this machine can reach it."""
    origins: tuple[str, ...] = ()
    """Origins of other pages that may ask (CORS), for example "https://clinic.example"."""
    requests_per_minute: int = 120
    """Of each client (key, token's subject, or address)."""
    burst: int = 30
    """How many of them at once, after a rest."""
    max_photo_bytes: int = 20_000_000
    """Of a photo; of JSON, where base64 makes it longer, correspondingly more."""
    upload_seconds: float = 60.0
    """Within which a request must have arrived; of a stream, its first answer must have begun."""
    answer_seconds: float = 65.0
    """Within which a request must be answered: more than the gateway's own cap of 60 s."""
    max_connections: int = 1000
    """From all clients together."""
    max_streams: int = 100
    """At once on one connection (HTTP/2)."""
    heap_bytes: int = 512 * 1024 * 1024
    """Memory from which Envoy sheds load."""
    gateway_tls_ca: pathlib.Path | None = None
    """CA that signed the gateway's certificate, PEM; without it the gateway is spoken to in plaintext."""
    gateway_tls_name: str | None = None
    """Name in the gateway's certificate; the host of `gateway` when None."""
    gateway_tls_cert: pathlib.Path | None = None
    """Certificate to show to a gateway that asks for one, PEM."""
    gateway_tls_key: pathlib.Path | None = None
    """Its key, PEM."""

    def __post_init__(self) -> None:
        for name in ("gateway", "listen", "admin", *(("metrics",) if self.metrics else ())):
            split_address(getattr(self, name), name=name)
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("a certificate needs its key, and a key its certificate: give both or neither")
        if (self.gateway_tls_cert is None) != (self.gateway_tls_key is None):
            raise SettingsError("gateway_tls_cert and gateway_tls_key go together: give both or neither")
        if not _is_loopback(self.admin):
            raise SettingsError(f"admin is {self.admin}: it can stop Envoy, so it stays on the loopback (127.0.0.1)")
        if not _is_loopback(self.listen):
            self._check_public()
        for name in ("requests_per_minute", "burst", "max_photo_bytes", "upload_seconds", "answer_seconds"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is {getattr(self, name)}, and must be more than 0")
        clients = [client for client, _ in self.keys]
        if len({key for _, key in self.keys}) != len(self.keys):
            raise SettingsError("two clients have the same API key: give each its own")
        if any(not client or not key for client, key in self.keys):
            raise SettingsError(f"an API key or its client is empty (clients: {', '.join(clients)})")

    def _check_public(self) -> None:
        if not self.authenticates and not self.open:
            raise SettingsError(
                f"listen is {self.listen}, which others can reach, and anyone could ask: set API keys or a JWKS, "
                "or say that it is open on purpose"
            )

    @property
    def authenticates(self) -> bool:
        """Whether a key or a token is asked for."""
        return bool(self.keys) or self.jwt is not None


def read_keys(path: pathlib.Path) -> tuple[tuple[str, str], ...]:
    """Read API keys from a JSON object, {"client": "key", …}.

    Raises:
        SettingsError: it can't be read or is something else; the message holds no key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise SettingsError(f"can't read API keys from {path}: {what}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found.values()):
        raise SettingsError(f'{path} must hold a JSON object with a key for each client: {{"clinic": "…"}}')
    return tuple(found.items())


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
