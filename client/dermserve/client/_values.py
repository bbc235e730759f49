"""A gateway's answers as frozen values: predictions and models."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from dermserve.v1 import card_pb2, classifier_pb2

T = TypeVar("T")


class OpenEnum(StrEnum):
    """A string enum for the proto's of the same name, with a member for each number without a name: `UNKNOWN_7`."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not (isinstance(value, str) and value.startswith("UNKNOWN_") and value[8:].isdecimal()):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    @classmethod
    def from_number(cls, number: int) -> Self:
        """Make the member for the proto's number."""
        names = getattr(classifier_pb2, cls.__name__)
        try:
            return cls(names.Name(number).removeprefix(names.Name(0).removesuffix("UNSPECIFIED")))
        except ValueError:  # newer than our stubs or than this enum, or the "unspecified" that no server should send
            return cls(f"UNKNOWN_{number}")


class Verdict(OpenEnum):
    """Whether a prediction may be used. One that is new to this client is `UNKNOWN_<number>`: treat it as UNCERTAIN."""

    CONFIDENT = "CONFIDENT"  #: The malignancy risk is LOW or HIGH and may be trusted as far as the card says.
    UNCERTAIN = "UNCERTAIN"  #: The model abstains: show no class as the answer. There may still be a malignancy risk.
    REJECTED = "REJECTED"  #: Not a usable photo of skin.


class Reason(OpenEnum):
    """Why a verdict is not CONFIDENT (docs/answers.md). One that this client does not know is `UNKNOWN_<number>`."""

    UNTRAINED_MODEL = "UNTRAINED_MODEL"
    UNCALIBRATED_MODEL = "UNCALIBRATED_MODEL"
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    VIEW_DISAGREEMENT = "VIEW_DISAGREEMENT"
    NOT_SKIN = "NOT_SKIN"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    TOO_DARK = "TOO_DARK"
    TOO_BRIGHT = "TOO_BRIGHT"
    NO_COLOR = "NO_COLOR"
    BLURRED = "BLURRED"
    UNIFORM = "UNIFORM"


class RiskLevel(OpenEnum):
    """The level of a malignancy risk. One that this client does not know is `UNKNOWN_<number>`: treat it as HIGH."""

    LOW = "LOW"  #: Below the card's rule-out threshold, in a confident answer.
    INTERMEDIATE = "INTERMEDIATE"  #: Cancer can't be ruled out.
    HIGH = "HIGH"  #: At or above the card's rule-in threshold.


@dataclass(frozen=True, slots=True)
class MalignancyRisk:
    """How probable it is that the lesion is malignant."""

    level: RiskLevel  #: What the probability means, by the card's thresholds.
    probability: float  #: Sum of the probabilities of the malignant classes, in [0, 1]; the mean over the views used.
    std: float  #: Population standard deviation of that sum over the views used; 0 with one view.


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction."""

    code: str  #: Short code, for example "mel".
    name: str  #: Full name, for example "melanoma".
    probability: float  #: Calibrated, in [0, 1]; the mean over the views used.
    std: float  #: Population standard deviation of the probability over the views used; 0 with one view.
    common_name: str  #: Word for people who are not physicians, for example "mole".
    malignant: bool  #: Whether the class counts towards the malignancy risk.


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer of a model version for one photo. A screening aid, never a diagnosis."""

    verdict: Verdict  #: Whether the prediction may be used at all.
    malignancy: MalignancyRisk | None  #: None when the photo was rejected, or the model is untrained or uncalibrated.
    reasons: tuple[Reason, ...]  #: Why the verdict is not CONFIDENT; empty when it is.
    named_class: str  #: Code of the class that may be named as the answer; empty: name none.
    classes: tuple[ClassScore, ...]  #: All classes, the most probable first; empty when the verdict is REJECTED.
    notice: str  #: What to tell a person, in English, to be shown with the answer.
    model: str  #: Model that answered.
    version: int  #: Version that answered, for all views.
    views_used: int  #: Views the probabilities are the mean of.
    views_asked: int  #: Views the TTA mode called for.
    timings_ms: Mapping[str, float]
    """Wall time of `decode`, `plan`, `predict` and `reduce`, and `total`, from the request's arrival to its answer."""
    request_id: str  #: Names this request in the gateway's logs.
    weights_digest: str  #: SHA-256 of the weights that answered.
    gateway_version: str  #: Version of dermserve that the gateway runs.

    @property
    def named(self) -> ClassScore | None:
        """The class that may be named as the answer, if any."""
        return next((score for score in self.classes if score.code == self.named_class), None)

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values, with the keys that `dermserve classify --json` prints."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        values["named_class"] = self.named_class or None
        return values


class VersionState(OpenEnum):
    """State of a version in the model server. A state that this client does not know is `UNKNOWN_<number>`."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    version: int  #: The number of its directory in the store.
    state: VersionState  #: State in the model server.
    labels: tuple[str, ...]  #: Labels that point to it.
    ready: bool  #: Whether the gateway has read its card, so that it can answer.
    card: card_pb2.Card | None  #: The card; None from `models()`, and for versions that can't answer.

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values; `card` is the card's proto3 JSON, absent when there is none."""
        values = {"version": self.version, "state": str(self.state), "labels": [*self.labels], "ready": self.ready}
        if self.card is None:
            return values
        return values | {"card": json_format.MessageToDict(self.card, preserving_proto_field_name=True)}


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its versions."""

    name: str  #: For example "resnet50".
    versions: tuple[ModelVersion, ...]  #: Versions the model server knows, newest first.

    @property
    def ready(self) -> bool:
        """Whether any version can answer."""
        return any(version.ready for version in self.versions)

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values, with the keys that `dermserve models --json` prints."""
        return {"name": self.name, "ready": self.ready, "versions": [item.to_dict() for item in self.versions]}


def read_prediction(message: classifier_pb2.ClassifyResponse) -> Prediction:
    """Make a prediction from the wire's."""
    malignancy = None
    if message.HasField("malignancy"):
        level = RiskLevel.from_number(message.malignancy.level)
        malignancy = _copy(MalignancyRisk, message.malignancy, level=level)
    return _copy(
        Prediction,
        message,
        classes=tuple(_copy(ClassScore, score) for score in message.classes),
        malignancy=malignancy,
        verdict=Verdict.from_number(message.verdict),
        reasons=tuple(map(Reason.from_number, message.reasons)),
        timings_ms={one.name[:-3]: getattr(message.timings, one.name) for one in message.timings.DESCRIPTOR.fields},
    )


def read_model(message: classifier_pb2.Model) -> Model:
    """Make a model from the wire's."""
    versions = [
        _copy(
            ModelVersion,
            version,
            state=VersionState.from_number(version.state),
            labels=tuple(version.labels),
            card=version.card if version.HasField("card") else None,
        )
        for version in message.versions
    ]
    return Model(message.name, tuple(versions))


def _copy(kind: type[T], message: Message, **read: Any) -> T:
    """Make a value of a message's fields of the same names, but for those that have been read already."""
    names = {field.name for field in fields(kind)} - read.keys()  # type: ignore[arg-type]
    return kind(**read, **{name: getattr(message, name) for name in names})
