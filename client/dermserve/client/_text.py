"""Render a prediction as text for a terminal."""

import textwrap
from collections.abc import Iterator

from dermserve.client._values import Prediction, Reason, RiskLevel, Verdict

_BAR = 24
_WIDTH = 100

_LEVELS = {
    RiskLevel.LOW: "LOW RISK: no sign of skin cancer was found",
    RiskLevel.INTERMEDIATE: "CAN'T RULE OUT skin cancer: have it seen by a dermatologist soon",
    RiskLevel.HIGH: "HIGH RISK: it looks like skin cancer, have it seen by a dermatologist now",
}
_VERDICTS = {
    Verdict.CONFIDENT: "confident, as far as a screening aid can be",
    Verdict.UNCERTAIN: "uncertain: do not take any class below for the answer",
    Verdict.REJECTED: "rejected: not a usable photo of skin, take another",
}
_REASONS = {
    Reason.UNTRAINED_MODEL: "the model was never trained on skin lesions, so its numbers mean nothing",
    Reason.UNCALIBRATED_MODEL: "nobody has measured when this model may be trusted",
    Reason.LOW_CONFIDENCE: "cancer is neither ruled out nor likely enough",
    Reason.VIEW_DISAGREEMENT: "turned and dimmed views of the photo get different answers",
    Reason.NOT_SKIN: "the photo looks unlike anything the model was trained on",
    Reason.OUT_OF_SCOPE: "it is probably a kind of spot that this model does not know",
    Reason.TOO_DARK: "the photo is too dark: take another with more light",
    Reason.TOO_BRIGHT: "the photo is too bright: take another without flash or direct sun",
    Reason.NO_COLOR: "the photo has no natural colour: take another in white light, without filters",
    Reason.BLURRED: "the photo is blurred: hold still, focus on the spot and take another",
    Reason.UNIFORM: "the photo shows no spot: take another with the spot in the centre",
}


def render_text(prediction: Prediction) -> str:
    """Render a prediction as lines of text: the level first, then verdict, ranked classes, what gave it, and notice."""
    return "\n".join(_lines(prediction))


def _lines(prediction: Prediction) -> Iterator[str]:
    yield f"  {_level(prediction)}"
    if named := prediction.named:
        common = named.common_name not in ("", named.name)
        yield f"  most likely: {f'{named.common_name} ({named.name})' if common else named.name}"
    yield f"  verdict: {_VERDICTS.get(prediction.verdict, f'{prediction.verdict}: take it for uncertain')}"
    for reason in prediction.reasons:
        yield f"    because {_REASONS.get(reason, str(reason))} ({reason})"
    for score in prediction.classes:
        deviation = f" ± {score.std * 100:4.1f}" if prediction.views_used > 1 else ""
        name = f"{score.common_name or score.name} ({score.code})"
        bar = "█" * round(score.probability * _BAR)
        yield f"  {bar:<{_BAR}} {_percent(score.probability):>5} %{deviation}  {name}"
    views = f"{prediction.views_used} of {prediction.views_asked} view{'s' if prediction.views_asked > 1 else ''}"
    yield f"  {prediction.model} version {prediction.version}, {views}"
    yield f"  weights: {prediction.weights_digest[:12]}, gateway: {prediction.gateway_version}"
    yield f"  time: {', '.join(f'{stage} {took:.1f} ms' for stage, took in prediction.timings_ms.items())}"
    yield f"  request: {prediction.request_id}"
    yield textwrap.fill(prediction.notice, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _level(prediction: Prediction) -> str:
    risk = prediction.malignancy
    if risk is None:
        return "NO ANSWER: take another photo" if prediction.verdict is Verdict.REJECTED else "NO ANSWER"
    words = _LEVELS.get(risk.level, f"{risk.level}: have it seen by a dermatologist")
    deviation = f" ± {risk.std * 100:.1f}" if prediction.views_used > 1 else ""
    return f"{words} (malignancy risk {_percent(risk.probability)}{deviation} %)"


def _percent(share: float) -> str:
    """Write a share in percent; not as 0.0 or 100.0, which would say that something is certain."""
    return "<0.1" if share < 0.0005 else ">99.9" if share >= 0.9995 else f"{share * 100:.1f}"
