"""The gateway's whole configuration: frozen, unknown keys refused. docs/settings.md says more of each setting.

Every field can be set in a TOML file by its name, and in the environment by DERMSERVE_ and its name in capitals, where
commas separate a list.
"""

import contextlib
import difflib
import ipaddress
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from dermserve.imaging import Limits

PREFIX = "DERMSERVE_"
_DECODING_BYTES = 220_000_000  # of one large photo, and of one small photo for each decoder


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _address(least_port: int) -> AfterValidator:
    def check(address: str) -> str:
        host, _, port = address.rpartition(":")
        is_host = "/" not in host.removeprefix("dns:///") and (host or not least_port)
        is_port = port.isdecimal() and least_port <= int(port) < 65536
        if not (address.startswith("unix:") or (is_host and is_port)):
            raise ValueError(f"{address} is not HOST:PORT or unix:PATH")
        return address

    return AfterValidator(check)


_MOST = 10**6  # seconds; gRPC counts milliseconds, and bytes, by 31 bits
Count = Annotated[int, Field(gt=0, le=10**9)]
Seconds = Annotated[float, Field(gt=0, le=_MOST)]
Listen = Annotated[str, _address(0)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]
Addresses = Annotated[tuple[Annotated[str, _address(1)], ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]


class Config(BaseSettings):
    """What the gateway does, and how much of it. Times are in seconds, files are PEM."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    listen: Listen = "127.0.0.1:50051"  # HOST:PORT to serve dermserve.v1 on; port 0 takes a free one
    tfs: Addresses = ("127.0.0.1:8500",)  # HOST:PORT of each TensorFlow Serving, or unix:PATH
    resolve_seconds: Seconds = 5.0  # between resolutions of these names
    tfs_tls_ca: FilePath | None = None  # authorities of its certificate; without it, calls are not encrypted
    tfs_tls_certificate: FilePath | None = None  # to show it, if it asks for one
    tfs_tls_key: FilePath | None = None  # private key of that certificate
    tfs_tls_name: str | None = None  # name to expect in its certificate; when not set, the host of its address
    tfs_in_flight: Count = Field(default_factory=lambda: os.cpu_count() or 1)  # calls to each address at once
    # Longest expected time of a call for which requests are batched; 0: never
    batch_seconds: float = Field(0.05, ge=0, le=_MOST)
    queue: int = Field(256, ge=0, le=10**9)  # requests that wait, for each model; none during an overload
    stream_queue: Count = 256  # photos of all streams that wait, for each model
    max_held_bytes: Count = 128_000_000  # of all photos that wait or are in progress; as many may be being received
    tls_certificate: FilePath | None = None  # chain of this server; with tls_key, callers need TLS
    tls_key: FilePath | None = None  # its private key
    tls_client_ca: FilePath | None = None  # authorities whose certificates callers must show (mTLS)
    insecure: bool = False  # listen beyond the loopback without TLS, because something in front of it encrypts
    health_listen: Listen | None = None  # HOST:PORT for grpc.health.v1 alone, without TLS, for an orchestrator's probes
    metrics_listen: Listen | None = None  # HOST:PORT for Prometheus at /metrics, without TLS
    max_connection_age_seconds: Seconds | None = None  # after which a connection is closed gracefully
    models: Names = ("resnet50", "mobilenet_v3_small")  # to serve, by their names in TensorFlow Serving
    canary_file: pathlib.Path | None = None  # TOML with the canary's share of each model, read every `poll_seconds`
    canary_sample: float = Field(0.1, ge=0, le=1)  # of the canary's photos that the stable version classifies, too
    reflection: bool = False  # serve gRPC reflection, which shows the whole API to anyone who connects

    default_deadline_seconds: Seconds = 10.0  # of a request without one, and of each photo of a stream
    max_deadline_seconds: Seconds = 60.0  # no request gets more, whatever its caller says
    grace_seconds: float = Field(10.0, ge=0, le=_MOST)  # for accepted requests to finish after SIGTERM

    max_image_bytes: Count = Limits().max_bytes  # size of a photo's file
    decoders: Count = Field(2, le=64)  # threads that decode photos; large ones have another thread
    stream_at_once: Count = 4  # photos of one ClassifyStream in flight

    poll_seconds: Seconds = 2.0  # between polls of the versions while every model is ready, else less
    poll_timeout_seconds: Seconds = 2.0  # of one poll; a server late three times in a row counts as gone

    @model_validator(mode="after")
    def _check(self) -> Self:
        for use in ("tls", "tfs_tls"):
            if (getattr(self, f"{use}_certificate") is None) != (getattr(self, f"{use}_key") is None):
                raise ValueError(f"{use}_certificate and {use}_key need each other")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if not (self.tls_certificate or self.insecure or is_loopback(self.listen)):
            remedy = "set tls_certificate and tls_key, or insecure if something in front encrypts"
            raise ValueError(f"listen is {self.listen}, which others can reach, without TLS: {remedy}")
        if (self.tfs_tls_certificate or self.tfs_tls_name) and not self.tfs_tls_ca:
            raise ValueError("tfs_tls_certificate and tfs_tls_name need tfs_tls_ca")
        return self

    @property
    def photo_memory(self) -> int:
        """Bytes of memory for all photos: those in progress, those being received, and what is decoded."""
        return 2 * self.max_held_bytes + _DECODING_BYTES

    @property
    def small_photo(self) -> int:
        """Most bytes that decoding a photo may take beside others; larger ones are decoded one at a time."""
        return (_DECODING_BYTES - Limits().max_memory) // self.decoders


def is_loopback(listen: str) -> bool:
    """Return whether only this machine can reach HOST:PORT; names other than localhost count as reachable by others."""
    host = listen.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or listen.startswith("unix:")


def load_config(options: Mapping[str, Any], *, file: pathlib.Path | None = None) -> tuple[Config, Mapping[str, str]]:
    """Read the configuration: options first, then the environment, then a TOML file, then the defaults.

    Options that are None or empty are not given.

    Returns:
        It and where each of its values comes from: "option", the environment variable, the file, or "default".

    Raises:
        ValueError: a key or a value is not valid; the message names it.
        OSError: the file can't be read.
    """
    variables = {name: PREFIX + name.upper() for name in Config.model_fields}
    _refuse_misspelt([*variables.values()])
    options = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        filed = tomllib.loads(file.read_text("utf-8")) if file else {}
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    environment = EnvSettingsSource(Config)()
    try:
        config = Config(**{**filed, **environment, **options})
    except ValidationError as error:
        faults = (
            (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")) for each in error.errors()
        )
        raise ValueError("\n".join(": ".join(filter(None, fault)) for fault in faults)) from error
    sources = dict.fromkeys(Config.model_fields, "default") | dict.fromkeys(filed, str(file))
    sources |= {name: variables[name] for name in environment} | dict.fromkeys(options, "option")
    return config, sources


def _refuse_misspelt(known: list[str]) -> None:
    """Refuse variables that look like a misspelt setting.

    Other variables that begin with DERMSERVE_ belong to other commands, or Kubernetes set them for a Service.
    """
    found = []
    for key in os.environ:
        if key.startswith(PREFIX) and key not in known and (near := difflib.get_close_matches(key, known, 1, 0.88)):
            found.append(f"{key} is not a setting: did you mean {near[0]}?")
    if found:
        raise ValueError("\n".join(found))
