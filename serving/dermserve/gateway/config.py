"""The gateway's whole configuration: frozen, each field documented here, unknown keys refused.

Every field can be set in a TOML file by its name, and in the environment by DERMSERVE_ and its name in capitals, where
commas separate a list.
"""

import contextlib
import difflib
import ipaddress
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FilePath,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dermserve.gateway.admission import Bounds
from dermserve.imaging import Limits

PREFIX = "DERMSERVE_"
_DECODING_BYTES = 220_000_000
"""Memory of all decoders together; what they take beyond it keeps a pod of 1 GiB within its limit."""
_BURST = 256


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_names(value: object) -> object:
    return _split(value) if isinstance(value, str) else value


def _read_shares(value: object) -> object:
    """Read NAME=SHARE,NAME=SHARE; a part without "=" keeps no share, which is then no number."""
    return (
        {part.partition("=")[0]: part.partition("=")[2] for part in _split(value)} if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_read_names)]
Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[dict[str, Share], NoDecode, BeforeValidator(_read_shares)]


class Config(BaseSettings):
    """What the gateway does, and how much of it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50051"
    """HOST:PORT to serve dermserve.v1 on; port 0 takes a free one."""
    tfs: Annotated[Names, Field(min_length=1)] = ("127.0.0.1:8500",)
    """HOST:PORT of each TensorFlow Serving, or unix:PATH. Each address of a name is a model server of its own; of a
    name with addresses of both kinds, the IPv4 ones."""
    resolve_seconds: PositiveFloat = 5.0
    """Seconds between resolutions of these names; after a failure they are resolved again within a second."""
    tfs_tls_ca: FilePath | None = None
    """PEM file of the authorities that TensorFlow Serving's certificate must come from; without it, calls to it are not
    encrypted. It and the next two are read anew when they change."""
    tfs_tls_certificate: FilePath | None = None
    """PEM file of the certificate to show it, where it asks for one (`client_verify` in its ssl_config_file)."""
    tfs_tls_key: FilePath | None = None
    """PEM file of that certificate's private key."""
    tfs_tls_name: str | None = None
    """Name to expect in TensorFlow Serving's certificate. When not set, the host of its address."""
    tfs_in_flight: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Predict calls at each of these addresses at once. Best near the cores it has: more only wait inside it, and with
    default flags it refuses beyond four times its cores."""
    batch_seconds: Annotated[float, Field(ge=0)] = 0.05
    """Requests that come while calls are in flight are batched into one call of up to ten views, where such a call is
    not expected to take longer than this. 0: never."""
    at_once: PositiveInt | None = None
    """Requests worked on at once, for each method and model. When not set, only the free capacity of the model servers
    is the bound: what they can take, and two more, whose photos are decoded during calls."""
    queue: Annotated[int, Field(ge=0)] = 0
    """Requests that wait, for each model, during an overload; more are refused."""
    burst: Annotated[int, Field(ge=0)] | None = None
    """Requests that may wait, for each model, until one is refused: `queue` then applies until none was refused for a
    second. When not set, 256, or `queue` where that is set. No more than are answered in three seconds."""
    stream_queue: PositiveInt = 256
    """Photos of all streams that wait, for each model. A stream sends no more than `stream_at_once` ahead."""
    max_held_bytes: PositiveInt = 128_000_000
    """Bytes of all photos that wait or are in progress; more are refused. In memory they count twice."""
    tls_certificate: FilePath | None = None
    """PEM file of this server's certificate chain; with `tls_key`, callers need TLS. Read anew when it changes."""
    tls_key: FilePath | None = None
    """PEM file of its private key."""
    tls_client_ca: FilePath | None = None
    """PEM file of the authorities whose certificates callers must show (mTLS)."""
    insecure: bool = False
    """Whether it may listen beyond the loopback without TLS, because something in front of it encrypts."""
    health_listen: str | None = None
    """HOST:PORT for grpc.health.v1 alone, always without TLS, for an orchestrator's probes."""
    metrics_listen: str | None = None
    """HOST:PORT for Prometheus at /metrics, always without TLS; port 0 takes a free one."""
    max_connection_age_seconds: PositiveFloat | None = None
    """A connection is closed gracefully after so long, and its caller then finds new replicas."""
    models: Annotated[Names, Field(min_length=1)] = ("resnet50", "mobilenet_v3_small")
    """Models to serve, by their names in TensorFlow Serving, which has no call that lists them."""
    labels: Names = ("stable", "canary")
    """Labels to show in ListModels. Others can be asked for, too, if TensorFlow Serving knows them."""
    canary_shares: Shares = {}
    """MODEL=SHARE of the requests without a version or label that go to the label `canary`, the others to `stable`;
    sticky by the metadata `x-caller-key`."""
    canary_file: pathlib.Path | None = None
    """TOML file with these shares in a table `canary_shares`, instead of the setting: `canary.toml` as `dermserve model
    canary` writes it. Read anew every `poll_seconds`; while there is none, nobody gets a canary."""
    canary_sample: Share = 0.1
    """Share of the canary's answers about which the stable version is asked, too, where model servers have free slots:
    how often both name the same top class is in the metrics."""
    reflection: bool = False
    """Whether to serve gRPC reflection, which shows the whole API to anyone who connects."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe events to log. Each request is one "info" line."""

    default_deadline_seconds: PositiveFloat = 10.0
    """For a request whose caller set no deadline, and for each photo of a stream."""
    max_deadline_seconds: PositiveFloat = 60.0
    """No request gets more, whatever its caller says."""
    grace_seconds: Annotated[float, Field(ge=0)] = 10.0
    """For accepted requests to finish after SIGTERM."""

    max_image_bytes: PositiveInt = Limits().max_bytes
    """Size of a photo's file."""
    max_image_pixels: PositiveInt = Limits().max_pixels
    """Width × height of a photo, from its header."""
    min_image_side: PositiveInt = Limits().min_side
    """Shorter side of a photo in pixels."""
    decoders: PositiveInt = 2
    """Threads that decode photos. Two decode hundreds a second; more than two share the memory that two may take."""
    decoder_stuck_seconds: PositiveFloat = 30.0
    """A thread that works on one photo for longer is replaced."""
    stream_at_once: PositiveInt = 4
    """Photos of one ClassifyStream in flight. More than the model server computes at once would only wait."""

    poll_seconds: PositiveFloat = 2.0
    """Seconds between polls of the model servers' versions while every model is ready."""
    poll_waiting_seconds: PositiveFloat = 0.1
    """Seconds between polls while none is ready."""
    poll_timeout_seconds: PositiveFloat = 2.0
    """Timeout of one poll; a server that is late three times in a row counts as gone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: options, then the environment, then a TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("tfs")
    @classmethod
    def _check_tfs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            host, _, port = name.rpartition(":")
            if not name.startswith("unix:") and not (host and port.isdecimal() and 0 < int(port) < 65536):
                raise ValueError(f"{name} is not HOST:PORT or unix:PATH")
        return names

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key need each other")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if not (self.tls_certificate or self.insecure or is_loopback(self.listen)):
            raise ValueError(
                f"listen is {self.listen}, which others can reach, without TLS: set tls_certificate and tls_key, "
                "or insecure if something in front encrypts"
            )
        if (self.tfs_tls_certificate is None) != (self.tfs_tls_key is None):
            raise ValueError("tfs_tls_certificate and tfs_tls_key need each other")
        if (self.tfs_tls_certificate or self.tfs_tls_name) and not self.tfs_tls_ca:
            raise ValueError("tfs_tls_certificate and tfs_tls_name need tfs_tls_ca")
        if self.canary_file and self.canary_shares:
            raise ValueError("canary_shares and canary_file exclude each other")
        if strange := sorted(set(self.canary_shares) - set(self.models)):
            raise ValueError(f"canary_shares names {', '.join(strange)}, which models does not")
        return self

    @property
    def unary(self) -> Bounds:
        """What Classify admits for each model."""
        usual = self.queue if "queue" in self.model_fields_set else _BURST
        return Bounds(at_once=self.at_once, queue=self.queue, burst=usual if self.burst is None else self.burst)

    @property
    def stream(self) -> Bounds:
        """What ClassifyStream admits for each model."""
        return Bounds(at_once=self.at_once, queue=self.stream_queue, burst=0)

    @property
    def certificates(self) -> dict[str, pathlib.Path]:
        """Certificate files by the setting that names them."""
        names = ("tls_certificate", "tls_client_ca", "tfs_tls_ca", "tfs_tls_certificate")
        return {name: file for name in names if (file := getattr(self, name)) is not None}

    @property
    def limits(self) -> Limits:
        """What a photo may be."""
        return Limits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            min_side=self.min_image_side,
            max_memory=min(Limits().max_memory, _DECODING_BYTES // self.decoders),
        )


def is_loopback(listen: str) -> bool:
    """Return whether only this machine can reach HOST:PORT; names other than localhost count as reachable."""
    host = listen.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or listen.startswith("unix:")


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """Find environment variables that look like a setting but are none.

    Other variables that begin with DERMSERVE_ belong to other parts, or were set by Kubernetes for a Service of that
    name, and are left alone.

    Returns:
        One sentence for each.
    """
    known = [PREFIX + name.upper() for name in Config.model_fields]
    found = []
    for key in environment:
        if key.startswith(PREFIX) and key not in known and (near := difflib.get_close_matches(key, known, 1, 0.88)):
            found.append(f"{key} is not a setting: did you mean {near[0]}?")
    return found


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each of its values comes from."""

    config: Config
    sources: Mapping[str, str]
    """By field: "option", the environment variable, the file, or "default"."""


def load_config(options: Mapping[str, Any], *, file: pathlib.Path | None = None) -> Loaded:
    """Read the configuration: options first, then the environment, then a TOML file, then the defaults.

    Raises:
        ValueError: a key or a value that is not right; the message names it.
        OSError: the file can't be read.
    """
    if wrong := misspelt(os.environ):
        raise ValueError("\n".join(wrong))
    filed = _in_file(file)
    try:
        config = filed(**options)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))} {fault['msg']}".strip() for fault in error.errors())
        raise ValueError("\n".join(faults)) from error
    variables = {name: PREFIX + name.upper() for name in Config.model_fields if PREFIX + name.upper() in os.environ}
    sources = dict.fromkeys(Config.model_fields, "default")
    sources |= dict.fromkeys(TomlConfigSettingsSource(filed)(), str(file)) | variables
    return Loaded(config, sources | dict.fromkeys(options, "option"))


def _in_file(file: pathlib.Path | None) -> type[Config]:
    """Make the Config that reads a file besides."""
    if file is None:
        return Config
    file.open().close()  # pydantic-settings takes one that is not there for an empty one

    class Filed(Config, toml_file=file):
        pass

    return Filed
