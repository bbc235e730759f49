"""The definition of a test: target, mix of models and modes, photos, rate or users, time, and when calls are due."""

import io
import math
import pathlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self

import click
import pydantic
from PIL import Image, ImageOps

from dermserve.client import TLS
from dermserve.imaging import PhotoError, decode
from dermserve.local import DRAWN

MODES = ("NONE", "FULL", "ADAPTIVE")
MODELS = ("resnet50", "mobilenet_v3_small")
_SECONDS_BETWEEN_CALLS = 2.0  # of one user of an open loop, if the number of users was not given
_MOST_USERS = 20_000  # they take gigabytes
_MOST_SECONDS = 1_000_000
_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp")
_MOST_PHOTOS = 256
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
TOLERANCE = 0.02  # a call counts as late when it starts so many seconds after it was due
SHAPES: Mapping[str, Callable[[float], float]] = {
    "steady": lambda progress: 1.0,
    "ramp": lambda progress: progress,
    "step": lambda progress: (math.floor(progress * 5) + 1) / 5,
    "spike": lambda progress: 1.0 if 0.4 <= progress < 0.6 else 0.2,
    "soak": lambda progress: min(1.0, progress / 0.02),
}
"""Functions from progress in [0, 1) to a share of the peak in [0, 1]."""


class LoadTestError(click.ClickException):
    """A load test can't run; the message says what is wrong and what to do."""


class ScenarioError(LoadTestError):
    """The test's definition is not valid, or its photos can't be sent."""

    exit_code = 2


class ServerError(LoadTestError):
    """No gateway answers, or it lacks a model."""

    exit_code = 3


class Part(pydantic.BaseModel):
    """One kind of call of a mix."""

    model_config = pydantic.ConfigDict(frozen=True)

    model: str
    mode: str = "NONE"  # "NONE" (a single view), "FULL" or "ADAPTIVE"
    stream: int = 0  # photos of one ClassifyStream; 0 makes single Classify calls
    weight: float = 1.0  # how often, beside the others'

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read MODEL[:MODE[:STREAM]][=WEIGHT], for example "resnet50:full:16=0.5", or raise ScenarioError."""
        match = re.fullmatch(r"([\w.-]+)(?::(\w+))?(?::(\d+))?(?:=(\d+\.?\d*|\.\d+))?", text)
        mode = (match[2] or "none").upper() if match else ""
        if not match or mode not in MODES:
            raise ScenarioError(f"{text!r} is not a part of a mix: write MODEL:MODE=WEIGHT, like resnet50:full=0.2")
        weight = float(match[4] or 1)
        if not weight > 0:
            raise ScenarioError(f"{text!r} needs a weight above 0")
        return cls(model=match[1], mode=mode, stream=int(match[3] or 0), weight=weight)


class Scenario(pydantic.BaseModel):
    """One test, as it is sent to every worker. Raises pydantic.ValidationError."""

    model_config = pydantic.ConfigDict(frozen=True, allow_inf_nan=False)

    target: str  # any gRPC target: HOST:PORT, or ipv4:HOST:PORT,HOST:PORT for several
    mix: tuple[Part, ...] = pydantic.Field(min_length=1)  # what users call
    photos: str | None = None  # a folder of photos; drawn ones when None
    sides: tuple[Annotated[int, pydantic.Field(ge=64, le=8000)], ...] = ()  # pixels: photos are scaled to each
    rate: float | None = pydantic.Field(None, gt=0, le=_MOST_USERS / _SECONDS_BETWEEN_CALLS)
    """Calls due a second, over all users; None: a closed loop."""
    users: int = pydantic.Field(0, ge=0, le=_MOST_USERS)  # at the shape's peak; 0: what the rate needs, or eight
    run_time: float = 60.0  # seconds
    shape: str = "steady"  # a key of SHAPES
    warm_up: float = pydantic.Field(5.0, ge=0)  # seconds at the start that the summary leaves out
    deadline: float = pydantic.Field(10.0, gt=0)  # seconds a call may take
    tls: TLS | None = pydantic.Field(None, repr=False)  # the connections' encryption; plaintext when None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.run_time > self.warm_up:
            raise ValueError("the run time must be longer than the warm-up")
        if self.rate is not None and any(part.stream for part in self.mix):
            raise ValueError("streams have no rate: leave them out of the mix, or give users alone")
        return self

    @property
    def peak_users(self) -> int:
        """Users at the shape's peak."""
        return self.users or (8 if self.rate is None else max(2, math.ceil(self.rate * _SECONDS_BETWEEN_CALLS)))

    def users_at(self, seconds: float) -> int | None:
        """Return the number of users at a time after the start, at least one; None when the test is over."""
        if seconds >= self.run_time:
            return None
        return max(1, round(self.peak_users * SHAPES[self.shape](seconds / self.run_time)))

    def public(self) -> dict[str, Any]:
        """Return the fields that may be shown: without certificates."""
        return {**self.model_dump(mode="json", exclude={"tls"}), "tls": self.tls is not None}


def parse_mix(texts: Sequence[str]) -> tuple[Part, ...]:
    """Read the parts of a mix; "all" stands for every model and mode. Raises ScenarioError."""
    everything = [f"{model}:{mode}" for model in MODELS for mode in MODES]
    return tuple(Part.parse(each) for text in texts for each in (everything if text == "all" else [text]))


def parse_seconds(text: str) -> float:
    """Read a duration: "500ms", "90s", "2m", "1h", or a number of seconds. Raises ValueError."""
    if not (match := re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|m|h)?", text)):
        raise ValueError(f"{text!r} is not a duration: write 500ms, 90s, 2m or 1h")
    if (seconds := float(match[1]) * _UNITS[match[2] or "s"]) > _MOST_SECONDS:
        raise ValueError(f"{text!r} is too long: {_MOST_SECONDS}s at most")
    return seconds


def first_fault(error: pydantic.ValidationError) -> str:
    """Describe the first fault of a validation, with its place."""
    fault = error.errors(include_url=False)[0]
    where = ", ".join(str(each + 1 if isinstance(each, int) else each) for each in fault["loc"])
    return ": ".join(filter(None, (where, fault["msg"].removeprefix("Value error, "))))


def load_photos(folder: str | None = None, sides: Sequence[int] = ()) -> list[bytes]:
    """Read up to 256 photos below a folder, or the drawn ones, scaled to each longer side; or raise ScenarioError."""
    if not (chosen := pathlib.Path(folder or DRAWN)).is_dir():
        raise ScenarioError(f"{folder} is not a folder: give one with photos, or none for drawn ones")
    files = [file for file in sorted(chosen.rglob("*")) if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if not (photos := [_checked(file) for file in files[:_MOST_PHOTOS]]):
        raise ScenarioError(f"{folder} has no photos ({', '.join(_SUFFIXES)})")
    return [_scale(photo, side) for photo in photos for side in sides] if sides else photos


def _scale(photo: bytes, side: int) -> bytes:
    with Image.open(io.BytesIO(photo)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    file = io.BytesIO()
    ImageOps.contain(upright, (side, side)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _checked(file: pathlib.Path) -> bytes:
    try:
        photo = file.read_bytes()
        decode(photo, height=224, width=224)
    except (OSError, PhotoError) as error:
        raise ScenarioError(f"{file}: {error}; take it out of the folder") from error
    return photo


class Timeline:
    """The times at which the calls of one user of an open loop are due, however late the answers are.

    Locust's `constant_throughput` drops calls that come due during a slow one (coordinated omission); here they stay
    due. Those that start at `counted_from` or later are counted. The first is due after a share `phase` of an interval.
    """

    def __init__(
        self, rate: float, *, phase: float = 0.0, counted_from: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._interval = 1 / rate
        self._clock = clock
        self._next = clock() + phase * self._interval
        self._counted_from = counted_from
        self._pace: Counter[str] = Counter()

    def pause(self) -> float:
        """Return the seconds until the next call is due; 0 if it is."""
        return max(0.0, self._next - self._clock())

    def take(self) -> float:
        """Start the next call; return when it was due."""
        due, now = self._next, self._clock()
        self._next += self._interval
        if now >= self._counted_from:
            self._pace.update(started=1, late=now - due > TOLERANCE)
        return due

    def finish(self, at: float = math.inf) -> Counter[str]:
        """Count the calls that came due (`wanted`) by now and by `at`, were `started`, and of these were `late`."""
        overdue = min(self._clock(), at) - TOLERANCE - self._next
        never = int(overdue / self._interval) + 1 if overdue >= 0 else 0
        self._pace["wanted"] = self._pace["started"] + never
        return self._pace
