"""The answer for one photo, as frozen values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dermserve.client._enums import OpenEnum
from dermserve.v1 import classifier_pb2


class Verdict(OpenEnum):
    """Whether a prediction may be used. One this client does not know reads `UNKNOWN_<number>`: trust it as little."""

    CONFIDENT = "CONFIDENT"
    """The malignancy risk is LOW or HIGH and may be trusted as far as the card says."""
    UNCERTAIN = "UNCERTAIN"
    """The model abstains: show no class as the answer. There may still be a malignancy risk."""
    REJECTED = "REJECTED"
    """Not a usable photo of skin."""


class Reason(OpenEnum):
    """Why a verdict is not CONFIDENT. A reason this client does not know reads `UNKNOWN_<number>`."""

    UNTRAINED_MODEL = "UNTRAINED_MODEL"
    """The weights were never trained on skin lesions: the probabilities mean nothing."""
    UNCALIBRATED_MODEL = "UNCALIBRATED_MODEL"
    """Nobody measured when this model may be trusted."""
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    """Cancer is neither ruled out nor in."""
    VIEW_DISAGREEMENT = "VIEW_DISAGREEMENT"
    """The malignancy risk differs between the views more than the card allows."""
    NOT_SKIN = "NOT_SKIN"
    """The photo looks unlike anything the model was trained on."""
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    """The lesion is probably of a kind that the model does not know."""
    TOO_DARK = "TOO_DARK"
    """Take another photo with more light."""
    TOO_BRIGHT = "TOO_BRIGHT"
    """Take another photo without flash or direct sun."""
    NO_COLOR = "NO_COLOR"
    """Take another photo in colour, without filters."""
    BLURRED = "BLURRED"
    """Hold still, focus on the lesion and take another photo."""
    UNIFORM = "UNIFORM"
    """The photo shows an even area and no lesion."""


class RiskLevel(OpenEnum):
    """What a malignancy risk calls for. A level this client does not know reads `UNKNOWN_<number>`: see it as HIGH."""

    LOW = "LOW"
    """Below the card's rule-out threshold, in a confident answer."""
    INTERMEDIATE = "INTERMEDIATE"
    """Cancer can't be ruled out."""
    HIGH = "HIGH"
    """At or above the card's rule-in threshold."""


@dataclass(frozen=True, slots=True)
class MalignancyRisk:
    """How probable it is that the lesion is malignant."""

    level: RiskLevel
    """What the probability means, by the card's thresholds."""
    probability: float
    """Sum of the probabilities of the malignant classes, in [0, 1]; the mean over the views used."""
    std: float
    """Population standard deviation of that sum over the views used; 0 with one view."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a prediction."""

    code: str
    """Short code, for example "mel"."""
    name: str
    """Full name, for example "melanoma"."""
    probability: float
    """Calibrated, in [0, 1]; the mean over the views used."""
    std: float
    """Population standard deviation of the probability over the views used; 0 with one view."""
    common_name: str = ""
    """Word for people who are not physicians, for example "mole"."""
    malignant: bool = False
    """Whether the class counts towards the malignancy risk."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of each stage in the gateway."""

    decode_ms: float
    """Photo bytes to pixels, waiting for a decoder included."""
    plan_ms: float
    """Making the views."""
    predict_ms: float
    """Asking TensorFlow Serving, the network between it and the gateway included."""
    reduce_ms: float
    """Mean, standard deviation and verdict."""
    total_ms: float
    """From the request's arrival at the gateway to its answer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of a model version for one photo. A screening aid, never a diagnosis."""

    model: str
    """Model that answered."""
    version: int
    """Version that answered, for all views."""
    classes: tuple[ClassScore, ...]
    """All classes, the most probable first; empty when the verdict is REJECTED."""
    verdict: Verdict
    """Whether the prediction may be used at all."""
    reasons: tuple[Reason, ...]
    """Why the verdict is not CONFIDENT; empty when it is."""
    views_asked: int
    """Views the TTA mode called for."""
    views_used: int
    """Views the probabilities are the mean of."""
    timings: Timings
    """Wall time of each stage."""
    request_id: str
    """Names this request in the gateway's logs."""
    notice: str
    """What to tell a person, in English, to be shown with the answer."""
    malignancy: MalignancyRisk | None = None
    """None when the photo was rejected, or the model is untrained or uncalibrated."""
    named_class: str = ""
    """Code of the class that may be named as the answer; empty: name none."""
    weights_digest: str = ""
    """SHA-256 of the weights that answered."""
    gateway_version: str = ""
    """Version of dermserve that the gateway runs."""

    @property
    def top(self) -> ClassScore | None:
        """The most probable class, whatever the verdict; `named` is the one to show. None for a rejected photo."""
        return self.classes[0] if self.classes else None

    @property
    def named(self) -> ClassScore | None:
        """The class that may be named as the answer, if any."""
        return next((score for score in self.classes if score.code == self.named_class), None)

    @property
    def confident(self) -> bool:
        """Whether the model may be trusted with this photo."""
        return self.verdict is Verdict.CONFIDENT

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values, with the keys that `dermserve classify --json` prints."""
        return {
            "model": self.model,
            "version": self.version,
            "classes": [asdict(score) for score in self.classes],
            "malignancy": None
            if self.malignancy is None
            else {**asdict(self.malignancy), "level": str(self.malignancy.level)},
            "named_class": self.named_class or None,
            "verdict": str(self.verdict),
            "reasons": [str(reason) for reason in self.reasons],
            "views_used": self.views_used,
            "views_asked": self.views_asked,
            "timings_ms": {name.removesuffix("_ms"): value for name, value in asdict(self.timings).items()},
            "request_id": self.request_id,
            "notice": self.notice,
            "weights_digest": self.weights_digest,
            "gateway_version": self.gateway_version,
        }

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Probability by class code, the most probable first."""
        return {score.code: score.probability for score in self.classes}


def read_prediction(message: classifier_pb2.ClassifyResponse) -> Prediction:
    """Make a prediction from the wire's."""
    return Prediction(
        model=message.model,
        version=message.version,
        classes=tuple(_read_score(item) for item in message.classes),
        verdict=Verdict.from_number(message.verdict, names=classifier_pb2.Verdict, prefix="VERDICT_"),
        reasons=tuple(
            Reason.from_number(number, names=classifier_pb2.Reason, prefix="REASON_") for number in message.reasons
        ),
        views_asked=message.views_asked,
        views_used=message.views_used,
        timings=_read_timings(message.timings),
        request_id=message.request_id,
        notice=message.notice,
        malignancy=_read_malignancy(message.malignancy) if message.HasField("malignancy") else None,
        named_class=message.named_class,
        weights_digest=message.weights_digest,
        gateway_version=message.gateway_version,
    )


def _read_score(message: classifier_pb2.ClassScore) -> ClassScore:
    return ClassScore(
        message.code, message.name, message.probability, message.std, message.common_name, message.malignant
    )


def _read_malignancy(message: classifier_pb2.MalignancyRisk) -> MalignancyRisk:
    level = RiskLevel.from_number(message.level, names=classifier_pb2.RiskLevel, prefix="RISK_LEVEL_")
    return MalignancyRisk(level, message.probability, message.std)


def _read_timings(message: classifier_pb2.Timings) -> Timings:
    return Timings(message.decode_ms, message.plan_ms, message.predict_ms, message.reduce_ms, message.total_ms)
