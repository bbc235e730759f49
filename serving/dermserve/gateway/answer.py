"""Make the API's answer from a model server's scores: check, reduce, judge, write. Pure functions, no state.

All thresholds come from the card; one that it does not give is not applied. A network that was not trained on skin, or
that has no fitted rule_out and rule_in, is never trusted. Otherwise the malignancy risk decides, the sum of the
probabilities of the card's malignant classes: below rule_out cancer is ruled out, from rule_in on it is likely, between
them the model abstains. It also abstains if the photo is of bad quality, the lesion is of a kind that the model does
not know, or the views disagree.

- The level is LOW only if the verdict is CONFIDENT: a bad photo never gets LOW.
- A confident answer names its class only if that is probable enough: the risk can be clear when the class is not.
"""

import functools
import importlib.metadata
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import FAULTS, Measures, find_faults
from dermserve.v1 import card_pb2
from dermserve.v1 import classifier_pb2 as api

GATEWAY_VERSION = importlib.metadata.version("dermserve")

# The last sentence of every answer's notice.
NOTICE = "Screening aid, not a diagnosis: it can miss skin cancer and can see it where there is none."
_SUM_TOLERANCE = 1e-3  # largest distance from 1 of a sum of float32 probabilities; far above the rounding of 1000

_BY_LEVEL = {
    api.RISK_LEVEL_LOW: "No sign of skin cancer was found. If the spot is new, changes, itches or bleeds, see a "
    "dermatologist all the same.",
    api.RISK_LEVEL_INTERMEDIATE: "Skin cancer can't be ruled out: have the spot seen by a dermatologist soon.",
    api.RISK_LEVEL_HIGH: "The spot looks like skin cancer: have it seen by a dermatologist now.",
    api.RISK_LEVEL_UNSPECIFIED: "This says nothing about the spot: if in doubt, have it seen by a dermatologist.",
}
_BY_REASON = {
    api.REASON_NOT_SKIN: "Take another photo, of the spot alone.",
    api.REASON_OUT_OF_SCOPE: "This model does not know every kind of spot, and probably not this one.",
    api.REASON_TOO_DARK: "The photo is too dark: take another with more light.",
    api.REASON_TOO_BRIGHT: "The photo is too bright: take another without flash or direct sun.",
    api.REASON_NO_COLOR: "The photo has no natural colour: take another in white light, without filters.",
    api.REASON_BLURRED: "The photo is blurred: hold still, focus on the spot and take another.",
    api.REASON_UNIFORM: "The photo shows no spot: take another with the spot in the centre.",
}
_BY_FAULT: dict[str, api.Reason] = {fault: getattr(api, f"REASON_{fault.upper()}") for fault in FAULTS}
# With these reasons even a high risk means nothing.
_SHOWS_NO_KNOWN_LESION = frozenset({api.REASON_OUT_OF_SCOPE, api.REASON_UNIFORM})


class Reduced(NamedTuple):
    """One prediction for all views."""

    mean: tuple[float, ...]  # of each class; sums to 1
    std: tuple[float, ...]  # of each class: population standard deviation over the views
    ranking: tuple[int, ...]  # class indices, the most probable first, ties in the card's order
    risk: float  # summed probability of the malignant classes, the mean over the views
    risk_std: float  # its population standard deviation over the views
    ood_score: float  # of the identity view


class Judgement(NamedTuple):
    """What a prediction may be used for."""

    verdict: api.Verdict
    reasons: tuple[api.Reason, ...] = ()  # why the verdict is not CONFIDENT
    level: api.RiskLevel = api.RISK_LEVEL_UNSPECIFIED  # where nothing can be said


def check_scores(scores: Scores, *, card: card_pb2.Card) -> Scores:
    """Return the scores when they are sound.

    Raises:
        InvalidModelOutputError: wrong number of classes, not finite, outside 0..1, or rows that
            do not sum to 1.
    """
    for row, ood_score in zip(scores.probabilities, scores.ood_scores, strict=True):
        if len(row) != len(card.classes):
            raise InvalidModelOutputError(f"probabilities have {len(row)} classes, not {len(card.classes)}")
        if not all(map(math.isfinite, (*row, ood_score))):
            raise InvalidModelOutputError("it is not finite")
        if min(row) < 0 or max(row) > 1 + _SUM_TOLERANCE:
            raise InvalidModelOutputError("probabilities lie outside 0..1")
        if abs(math.fsum(row) - 1) > _SUM_TOLERANCE:
            raise InvalidModelOutputError("probabilities do not sum to 1")
    return scores


def reduce_views(scores: Scores, *, card: card_pb2.Card) -> Reduced:
    """Average checked scores of at least one view, the identity first."""
    malignant = [info.malignant for info in card.classes]
    rows, risks = [], []
    for scored in scores.probabilities:
        total = math.fsum(scored)
        row = [value / total for value in scored]
        rows.append(row)
        risks.append(math.fsum(itertools.compress(row, malignant)))
    mean, std = (
        zip(*map(_moments, zip(*rows, strict=True)), strict=True) if rows[1:] else (rows[0], [0.0] * len(rows[0]))
    )
    ranking = sorted(range(len(mean)), key=mean.__getitem__, reverse=True)
    return Reduced(tuple(mean), tuple(std), tuple(ranking), *_moments(risks), scores.ood_scores[0])


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum([(value - mean) ** 2 for value in values]) / len(values))


def judge(reduced: Reduced, measures: Measures, *, card: card_pb2.Card) -> Judgement:
    """Decide whether a prediction of a photo may be used, with every reason against it, and the level of its risk."""
    if card.provenance.training != card_pb2.TRAINING_TRAINED:
        return Judgement(api.VERDICT_UNCERTAIN, (api.REASON_UNTRAINED_MODEL,))
    reasons = tuple(_reasons(reduced, measures, card))
    if api.REASON_NOT_SKIN in reasons:
        return Judgement(api.VERDICT_REJECTED, reasons)
    if api.REASON_UNCALIBRATED_MODEL in reasons:
        return Judgement(api.VERDICT_UNCERTAIN, reasons)
    verdict = api.VERDICT_UNCERTAIN if reasons else api.VERDICT_CONFIDENT
    return Judgement(verdict, reasons, _level(reduced, reasons, card.calibration))


def _reasons(reduced: Reduced, measures: Measures, card: card_pb2.Card) -> Iterator[api.Reason]:
    fitted = card.calibration
    is_skin = not fitted.HasField("max_ood_score") or reduced.ood_score <= fitted.max_ood_score
    if not is_skin:
        yield api.REASON_NOT_SKIN
    elif fitted.HasField("max_scope_score") and reduced.ood_score > fitted.max_scope_score:
        yield api.REASON_OUT_OF_SCOPE
    yield from judge_quality(measures, fitted.quality)
    if not is_skin:  # nothing can be said of a risk
        return
    if not (fitted.HasField("rule_out") and fitted.HasField("rule_in")):
        yield api.REASON_UNCALIBRATED_MODEL
    elif _is_open(reduced, card):
        yield api.REASON_LOW_CONFIDENCE
    if fitted.HasField("max_view_std") and reduced.risk_std > fitted.max_view_std:
        yield api.REASON_VIEW_DISAGREEMENT


def judge_quality(measures: Measures, limits: card_pb2.QualityLimits) -> list[api.Reason]:
    """Return every reason why the photo's quality is too bad."""
    return [_BY_FAULT[fault] for fault in find_faults(measures, _read_limits(limits.SerializeToString()))]


@functools.lru_cache(maxsize=16)  # those of each card: to read the fields anew takes longer than to judge
def _read_limits(data: bytes) -> dict[str, float]:
    return {field.name: value for field, value in card_pb2.QualityLimits.FromString(data).ListFields()}


def _is_open(reduced: Reduced, card: card_pb2.Card) -> bool:
    """Tell whether cancer is neither ruled out nor ruled in; the most probable class must agree with the risk."""
    fitted = card.calibration
    if reduced.risk < fitted.rule_out.threshold:
        return card.classes[reduced.ranking[0]].malignant
    return reduced.risk < fitted.rule_in.threshold or not card.classes[reduced.ranking[0]].malignant


def _level(reduced: Reduced, reasons: Collection[api.Reason], fitted: card_pb2.Calibration) -> api.RiskLevel:
    if reduced.risk >= fitted.rule_in.threshold and _SHOWS_NO_KNOWN_LESION.isdisjoint(reasons):
        return api.RISK_LEVEL_HIGH
    return api.RISK_LEVEL_INTERMEDIATE if reasons else api.RISK_LEVEL_LOW


def write_answer(
    scores: Scores, measures: Measures, *, card: card_pb2.Card, include_rejected_classes: bool = False
) -> api.ClassifyResponse:
    """Write the answer for one photo; the caller fills in the request id, the model, the views asked for, and times.

    Args:
        scores: checked, of at least one view, the identity first.
        measures: of the photo's identity view.
        card: of the version that answered.
        include_rejected_classes: send the classes of a rejected photo, too.
    """
    reduced = reduce_views(scores, card=card)
    found = judge(reduced, measures, card=card)
    answer = api.ClassifyResponse(
        verdict=found.verdict,
        reasons=found.reasons,
        version=scores.version,
        views_used=scores.views,
        notice=write_notice(found),
        weights_digest=card.weights_digest,
        gateway_version=GATEWAY_VERSION,
    )
    if found.verdict != api.VERDICT_REJECTED or include_rejected_classes:
        for index in reduced.ranking:
            info = card.classes[index]
            score = answer.classes.add(probability=reduced.mean[index], std=reduced.std[index], code=info.code)
            score.name, score.common_name, score.malignant = info.name, info.common_name, info.malignant
    if found.level != api.RISK_LEVEL_UNSPECIFIED:
        answer.malignancy.level = found.level
        answer.malignancy.probability, answer.malignancy.std = reduced.risk, reduced.risk_std
    if found.verdict == api.VERDICT_CONFIDENT and reduced.mean[reduced.ranking[0]] >= card.calibration.min_confidence:
        answer.named_class = card.classes[reduced.ranking[0]].code
    return answer


def write_notice(found: Judgement) -> str:
    """Write the notice in English: what to do, what is wrong with the photo, and the disclaimer."""
    about_photo = [_BY_REASON[reason] for reason in found.reasons if reason in _BY_REASON]
    return " ".join((_BY_LEVEL[found.level], *about_photo, NOTICE))
