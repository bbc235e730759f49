"""The settings of the edge: each with its default and help, which are the options of `dermserve edge config`."""

import ipaddress
import json
import pathlib
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeVar, get_args

import click

SITE = pathlib.Path(__file__).with_name("site")  # what is served as files: openapi.json, and the built page in app/

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class SettingsError(click.UsageError):
    """Settings contradict each other, or a file can't be used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The edge's settings, which are the options of `dermserve edge config`. Paths are as Envoy sees them."""

    gateway: Annotated[str, "HOST:PORT of the gateway; each address of the name is used."]
    listen: Annotated[str, "HOST:PORT to serve; port 0 takes a free one."] = "127.0.0.1:8080"
    admin: Annotated[str, "HOST:PORT of Envoy's admin interface, on the loopback."] = "127.0.0.1:9901"
    metrics: Annotated[str | None, "HOST:PORT for Prometheus (/stats/prometheus) and probes (/ready)."] = None
    www: Annotated[pathlib.Path, "Folder to serve files from, made by `dermserve edge files`."] = SITE
    tls_cert: Annotated[pathlib.Path | None, "TLS certificate chain, PEM."] = None
    tls_key: Annotated[pathlib.Path | None, "Its private key, PEM."] = None
    keys: Annotated[pathlib.Path | None, "File of API keys' digests, made by `dermserve edge key`."] = None
    jwks: Annotated[pathlib.Path | None, "File of the keys that sign tokens (a JSON Web Key Set)."] = None
    issuer: Annotated[str | None, "What a token's iss must be."] = None
    audience: Annotated[tuple[str, ...], "A value that a token's aud may have; repeatable."] = ()
    open: Annotated[bool, "Let anyone who can reach it ask, without key or token."] = False
    origin: Annotated[tuple[str, ...], "Origin of another page that may ask (CORS); repeatable."] = ()
    requests_per_minute: Annotated[int, "Limit for each client: API key, token's subject, or else address."] = 120
    burst: Annotated[int, "Requests that a client may send at once after a pause."] = 30
    max_photo_bytes: Annotated[int, "Largest photo; its base64 in JSON may be a third longer."] = 20_000_000
    upload_seconds: Annotated[int, "Timeout of receiving a request."] = 60
    answer_seconds: Annotated[int, "Timeout of an answer: above the gateway's max_deadline_seconds, 60."] = 65
    connection_seconds: Annotated[int, "A connection ends after it, once its requests are answered."] = 30
    max_connections: Annotated[int, "Connections of all clients together."] = 1000
    max_streams: Annotated[int, "Streams at once on one HTTP/2 connection."] = 100
    heap_bytes: Annotated[int, "Memory near which Envoy sheds load."] = 2**29
    gateway_tls_ca: Annotated[pathlib.Path | None, "CA of the gateway's certificate, PEM; plaintext without."] = None
    gateway_tls_name: Annotated[str | None, "Name in that certificate; the gateway's host by default."] = None
    gateway_tls_cert: Annotated[pathlib.Path | None, "Certificate to show to the gateway, PEM."] = None
    gateway_tls_key: Annotated[pathlib.Path | None, "Its private key, PEM."] = None

    def __post_init__(self) -> None:
        for name in ("gateway", "listen", "admin", *(("metrics",) if self.metrics else ())):
            split_address(getattr(self, name), name=name)
        for one, other in (("tls_cert", "tls_key"), ("gateway_tls_cert", "gateway_tls_key"), ("jwks", "issuer")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                names = f"--{one} and --{other}".replace("_", "-")
                raise SettingsError(f"{names} go together: give both or neither")
        if self.audience and self.jwks is None:
            raise SettingsError("audience is what a token must name: give jwks and issuer as well")
        for setting in fields(self):
            value = getattr(self, setting.name)
            if type(value) is int and value < 1:
                raise SettingsError(f"{setting.name} is {value}, and must be at least 1")
        if self.keys:
            read_keys(self.keys)
        if not _is_loopback(self.admin):
            raise SettingsError(f"admin is {self.admin}: it can stop Envoy, so it stays on the loopback (127.0.0.1)")
        if not _is_loopback(self.listen) and not self.authenticates and not self.open:
            what = f"listen is {self.listen}, which others can reach, without keys or tokens"
            raise SettingsError(f"{what}: set API keys or a JWKS, or give --open if that is intended")

    @property
    def authenticates(self) -> bool:
        """Whether an API key or a token is required."""
        return self.keys is not None or self.jwks is not None


def read_keys(path: pathlib.Path) -> dict[str, str]:
    """Read each client's digest, 64 hexadecimal digits, from a JSON file, {"client": "sha256:<digest>", …}.

    Raises SettingsError: it can't be read or is not valid; the message contains no key.
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
        what = f"replace what it has for {', '.join(wrong)} by the output of `dermserve edge key`"
        raise SettingsError(f"{path} must hold digests, never keys: {what}")
    keys = {client: match[1] for client, match in digests.items() if match}
    if len(set(keys.values())) != len(keys):
        raise SettingsError(f"two clients in {path} have the same API key: give each its own")
    return keys


def split_address(address: str, *, name: str) -> tuple[str, int]:
    """Split HOST:PORT. Raises SettingsError: it is not HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{name} is {address!r}, and must be HOST:PORT")
    return host.strip("[]"), int(port)


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address, name="address")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def setting_options(command: _Command) -> _Command:
    """Add an option, with an environment variable, for each field of `Settings` to a command."""
    for setting in reversed(fields(Settings)):
        kind, text = get_args(setting.type)
        more: dict[str, Any] = {"envvar": f"DERMSERVE_EDGE_{setting.name.upper()}", "show_envvar": True, "help": text}
        if setting.default is MISSING:
            more |= {"required": True}
        elif kind is bool:
            more |= {"is_flag": True}
        elif kind == tuple[str, ...]:
            more |= {"multiple": True}
        elif setting.default is not SITE:
            more |= {"default": setting.default, "show_default": True}
        if kind in (pathlib.Path, pathlib.Path | None):
            more |= {"type": click.Path(path_type=pathlib.Path)}
        command = click.option(f"--{setting.name.replace('_', '-')}", setting.name, **more)(command)
    return command
