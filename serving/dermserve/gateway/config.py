"""The gateway's whole configuration: frozen, each field documented here, unknown keys refused.

Every field can be set by an environment variable, DERMSERVE_ and its name in capitals; lists are separated by commas.
"""

import difflib
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dermserve.gateway.admission import Bounds
from dermserve.imaging import Limits

PREFIX = "DERMSERVE_"


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Config(BaseSettings):
    """What the gateway does, and how much of it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50051"
    """HOST:PORT to serve dermserve.v1 on; port 0 takes a free one."""
    tfs: Annotated[Names, Field(min_length=1)] = ("127.0.0.1:8500",)
    """HOST:PORT of each TensorFlow Serving. A DNS name may stand for many, which gRPC then takes turns with."""
    tfs_in_flight: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Predict calls at each of these addresses at once. Best near the cores it has: more only wait inside it, and with
    default flags it refuses beyond four times its cores."""
    at_once: PositiveInt | None = None
    """Requests worked on at once, for each method and model; twice what `tfs_in_flight` allows in all when not set."""
    queue: Annotated[int, Field(ge=0)] | None = None
    """Requests that wait for it, for each model; further ones are refused. As many as `at_once` when not set: less
    makes answers under overload quicker, more takes larger bursts."""
    stream_queue: PositiveInt = 256
    """Photos of all streams that wait, for each model. A stream sends no more than `stream_at_once` ahead."""
    models: Annotated[Names, Field(min_length=1)] = ("resnet50", "mobilenet_v3_small")
    """Models to serve, by their names in TensorFlow Serving, which has no call that lists them."""
    labels: Names = ("stable", "canary")
    """Labels to show in ListModels. Others can be asked for, too, if TensorFlow Serving knows them."""
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
    decoders: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that decode photos."""
    decoder_stuck_seconds: PositiveFloat = 30.0
    """A thread that has been at one photo for longer is given up and replaced."""
    stream_at_once: PositiveInt = 4
    """Photos of one ClassifyStream in flight. More than the model server computes at once would only wait."""

    poll_seconds: PositiveFloat = 2.0
    """Between looks at the model server's versions while every model is ready."""
    poll_waiting_seconds: PositiveFloat = 0.1
    """Between looks while none is."""
    poll_timeout_seconds: PositiveFloat = 2.0
    """For one such call; a server that is late three times in a row counts as gone."""

    @property
    def unary(self) -> Bounds:
        """What Classify admits for each model."""
        at_once = self.at_once or 2 * self.tfs_in_flight * len(self.tfs)
        return Bounds(at_once=at_once, queue=at_once if self.queue is None else self.queue)

    @property
    def stream(self) -> Bounds:
        """What ClassifyStream admits for each model."""
        return Bounds(at_once=self.unary.at_once, queue=self.stream_queue)

    @property
    def limits(self) -> Limits:
        """What a photo may be."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels, min_side=self.min_image_side)


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


def load_config(overrides: Mapping[str, Any]) -> Config:
    """Read the configuration: `overrides` first, then the environment, then the defaults.

    Raises:
        ValueError: a key or a value that is not right; the message names it.
    """
    if wrong := misspelt(os.environ):
        raise ValueError("\n".join(wrong))
    return Config(**overrides)
