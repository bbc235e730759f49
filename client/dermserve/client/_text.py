"""A prediction in plain words, for people at a terminal."""

import textwrap
from collections.abc import Iterator

from dermserve.client._prediction import ClassScore, Prediction, Reason, Timings, Verdict

_BAR = 24
_WIDTH = 100
_EIGHTHS = " ▏▎▍▌▋▊▉"

_VERDICTS = {
    Verdict.CONFIDENT: "confident, as far as a screening aid can be",
    Verdict.UNCERTAIN: "uncertain: do not take any class below for the answer",
    Verdict.REJECTED: "rejected: not a usable photo of skin",
}
_REASONS = {
    Reason.UNTRAINED_MODEL: "the model was never trained on skin lesions, so its numbers mean nothing",
    Reason.UNCALIBRATED_MODEL: "nobody has measured when this model may be trusted",
    Reason.LOW_CONFIDENCE: "no class is probable enough",
    Reason.VIEW_DISAGREEMENT: "turned and dimmed views of the photo get different answers",
    Reason.NOT_SKIN: "the photo looks unlike anything the model was trained on",
}


def render_text(prediction: Prediction) -> str:
    """Render a prediction as lines of text: model, verdict and reasons, ranked classes, views, times, notice."""
    return "\n".join(_lines(prediction))


def _lines(prediction: Prediction) -> Iterator[str]:
    views = f"{prediction.views_used} of {prediction.views_asked} view{'s' if prediction.views_asked > 1 else ''}"
    yield f"{prediction.model} version {prediction.version}, {views}"
    yield f"  verdict: {_VERDICTS.get(prediction.verdict, f'{prediction.verdict}: take it for uncertain')}"
    for reason in prediction.reasons:
        yield f"    because {_REASONS.get(reason, str(reason))} ({reason})"
    for score in prediction.classes:
        yield _class_line(score, spread=prediction.views_used > 1)
    yield f"  time: {_times(prediction.timings)}"
    yield f"  request: {prediction.request_id}"
    yield textwrap.fill(prediction.notice, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _class_line(score: ClassScore, *, spread: bool) -> str:
    deviation = f" ± {score.std * 100:4.1f}" if spread else ""
    return f"  {_bar(score.probability)} {score.probability * 100:5.1f} %{deviation}  {score.name} ({score.code})"


def _bar(share: float) -> str:
    whole, part = divmod(round(max(0.0, min(share, 1.0)) * _BAR * 8), 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(_BAR)


def _times(timings: Timings) -> str:
    stages = ("decode", "plan", "predict", "reduce")
    each = ", ".join(f"{stage} {getattr(timings, f'{stage}_ms'):.1f} ms" for stage in stages)
    return f"{each}; {timings.total_ms:.1f} ms in all"
