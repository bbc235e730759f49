"""What a test asks for: where, which models and modes in what mix, with which photos, how often and for how long."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from dermserve.client import TLS
from dermserve.loadtest.errors import ScenarioError
from dermserve.loadtest.shapes import SHAPES

MODES = ("NONE", "FULL", "ADAPTIVE")
MODELS = ("resnet50", "mobilenet_v3_small")
STREAM = "STREAM"
_OPEN_LOOP_SPAN = 2.0
"""Seconds between two calls of one user of an open loop, where the number of users is left to us."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One kind of call of a mix."""

    model: str
    """Model name."""
    mode: str = "NONE"
    """"NONE" (a single view), "FULL" or "ADAPTIVE"."""
    stream: int = 0
    """Photos of one ClassifyStream; 0 makes single Classify calls."""
    weight: float = 1.0
    """How often, beside the others'."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read MODEL[:MODE[:STREAM]][=WEIGHT], for example "resnet50:full:16=0.5".

        Raises:
            ScenarioError: it is something else.
        """
        match = re.fullmatch(r"([\w.-]+)(?::(\w+))?(?::(\d+))?(?:=([\d.]+))?", text)
        mode = (match[2] or "none").upper() if match else ""
        if not match or mode not in MODES:
            raise ScenarioError(f"{text!r} is no part of a mix: write MODEL:MODE=WEIGHT, for example resnet50:full=0.2")
        try:
            weight = float(match[4] or 1)
        except ValueError:
            weight = math.nan
        if not weight > 0:
            raise ScenarioError(f"{text!r} needs a weight above 0")
        return cls(model=match[1], mode=mode, stream=int(match[3] or 0), weight=weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One test, as it is sent to every worker.

    Raises:
        ScenarioError: a field that can't be.
    """

    target: str
    """Any gRPC target: HOST:PORT, or ipv4:HOST:PORT,HOST:PORT for several."""
    mix: tuple[Part, ...]
    """What users call."""
    photos: str = ""
    """A folder of photos; drawn ones when empty."""
    sides: tuple[int, ...] = ()
    """Longer sides in pixels to scale photos to, each photo to all; as they are when empty."""
    rate: float | None = None
    """Calls due a second, over all users (open loop); each user calls again at once (closed loop) when None."""
    users: int = 0
    """Users at the shape's peak; as many as the rate needs when 0."""
    run_time: float = 60.0
    """Seconds."""
    shape: str = "steady"
    """A key of SHAPES."""
    warm_up: float = 5.0
    """Seconds at the start that the summary leaves out."""
    deadline: float = 10.0
    """Seconds a call may take."""
    connections: int = 4
    """Connections of each generating process, which its users take turns with."""
    tls_ca: str = ""
    """PEM of the authority to trust, itself; plaintext when empty."""
    tls_cert: str = field(default="", repr=False)
    """PEM of the client's certificate, itself; none when empty."""
    tls_key: str = field(default="", repr=False)
    """PEM of its private key, itself."""
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every call."""

    def __post_init__(self) -> None:
        faults = [
            (not self.mix, "the mix is empty: name a model"),
            (self.shape not in SHAPES, f"there is no shape {self.shape}: take one of {', '.join(SHAPES)}"),
            (self.rate is not None and not self.rate > 0, "the rate must be above 0 calls a second"),
            (self.users < 0, "users can't be fewer than 0"),
            (not self.users and self.rate is None, "say how many users, or at what rate"),
            (not self.run_time > self.warm_up >= 0, "the run time must be longer than the warm-up"),
            (not self.deadline > 0, "the deadline must be above 0 seconds"),
            (self.rate is not None and any(part.stream for part in self.mix), "streams take users, not a rate"),
        ]
        if said := [message for wrong, message in faults if wrong]:
            raise ScenarioError("; ".join(said))

    @property
    def peak_users(self) -> int:
        """Users at the shape's peak."""
        return self.users or max(2, math.ceil((self.rate or 0) * _OPEN_LOOP_SPAN))

    @property
    def user_rate(self) -> float | None:
        """Calls a second of one user of an open loop."""
        return None if self.rate is None else self.rate / self.peak_users

    @property
    def tls(self) -> TLS | None:
        """The connections' encryption; None for plaintext."""
        if not self.tls_ca:
            return None
        return TLS(
            root_certificates=self.tls_ca.encode(),
            certificate_chain=self.tls_cert.encode() or None,
            private_key=self.tls_key.encode() or None,
        )

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self))

    def public(self) -> dict[str, Any]:
        """Give it as it may be shown: without metadata, which may hold tokens, and certificates."""
        shown = asdict(self)
        shown["metadata"] = sorted(self.metadata)
        shown |= {name: bool(shown[name]) for name in ("tls_ca", "tls_cert", "tls_key")}
        return shown

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["mix"] = tuple(Part(**part) for part in fields["mix"])
        fields["sides"] = tuple(fields["sides"])
        return cls(**fields)


def parse_mix(texts: Sequence[str]) -> tuple[Part, ...]:
    """Read the parts of a mix; "all" stands for every model and mode.

    Raises:
        ScenarioError: one is something else.
    """
    everything = [f"{model}:{mode}" for model in MODELS for mode in MODES]
    return tuple(Part.parse(each) for text in texts for each in (everything if text == "all" else [text]))


def parse_seconds(text: str) -> float:
    """Read a duration: "500ms", "90s", "2m", "1h", "1m30s", or a number of seconds.

    Raises:
        ScenarioError: it is something else.
    """
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", text)
    try:
        if "".join(map("".join, parts)) == text and parts:
            return sum(float(number) * units[unit] for number, unit in parts)
        return float(text)
    except ValueError:
        raise ScenarioError(f"{text!r} is no duration: write 500ms, 90s, 2m or 1m30s") from None
