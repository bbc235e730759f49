"""The answer for one photo, as frozen values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dermserve.client._enums import OpenEnum
from dermserve.v1 import classifier_pb2


class Verdict(OpenEnum):
    """Whether a prediction may be used. One this client does not know reads `UNKNOWN_<number>`: trust it as little."""

    CONFIDENT = "CONFIDENT"
    """The model may be trusted as far as its card says."""
    UNCERTAIN = "UNCERTAIN"
    """The model abstains: show no class as the answer."""
    REJECTED = "REJECTED"
    """Not a usable photo of skin."""


class Reason(OpenEnum):
    """Why a verdict is not CONFIDENT. A reason this client does not know reads `UNKNOWN_<number>`."""

    UNTRAINED_MODEL = "UNTRAINED_MODEL"
    """The weights were never trained on skin lesions: the probabilities mean nothing."""
    UNCALIBRATED_MODEL = "UNCALIBRATED_MODEL"
    """Nobody measured when this model may be trusted."""
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    """The top probability is below the card's threshold."""
    VIEW_DISAGREEMENT = "VIEW_DISAGREEMENT"
    """The views disagree more than the card allows."""
    NOT_SKIN = "NOT_SKIN"
    """The photo looks unlike anything the model was trained on."""


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
    """What a model version says of one photo. A screening aid, never a diagnosis."""

    model: str
    """Model that answered."""
    version: int
    """Version that answered, for all views."""
    classes: tuple[ClassScore, ...]
    """All classes, the most probable first."""
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
    """The screening-aid notice, to be shown beside the prediction."""

    @property
    def top(self) -> ClassScore:
        """The most probable class, whatever the verdict: look at `confident` before showing it as an answer."""
        return self.classes[0]

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
            "verdict": str(self.verdict),
            "reasons": [str(reason) for reason in self.reasons],
            "views_used": self.views_used,
            "views_asked": self.views_asked,
            "timings_ms": {name.removesuffix("_ms"): value for name, value in asdict(self.timings).items()},
            "request_id": self.request_id,
            "notice": self.notice,
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
        classes=tuple(ClassScore(item.code, item.name, item.probability, item.std) for item in message.classes),
        verdict=Verdict.from_number(message.verdict, names=classifier_pb2.Verdict, prefix="VERDICT_"),
        reasons=tuple(
            Reason.from_number(number, names=classifier_pb2.Reason, prefix="REASON_") for number in message.reasons
        ),
        views_asked=message.views_asked,
        views_used=message.views_used,
        timings=_read_timings(message.timings),
        request_id=message.request_id,
        notice=message.notice,
    )


def _read_timings(message: classifier_pb2.Timings) -> Timings:
    return Timings(message.decode_ms, message.plan_ms, message.predict_ms, message.reduce_ms, message.total_ms)
