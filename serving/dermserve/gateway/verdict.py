"""Stage *verdict*: whether a prediction may be used, decided by its card's thresholds and nothing else.

A network that was never trained on skin is never trusted, whatever it says. One without a fitted confidence threshold
neither: nobody measured when it is right. Otherwise each threshold the card gives is applied; one that it does not give
is not.
"""

from collections.abc import Iterator

from dermserve.gateway.reduce import Reduced
from dermserve.v1 import card_pb2, classifier_pb2


def judge(reduced: Reduced, *, card: card_pb2.Card) -> tuple[classifier_pb2.Verdict, list[classifier_pb2.Reason]]:
    """Return the verdict and every reason for it; no reasons when it is VERDICT_CONFIDENT."""
    if card.provenance.training != card_pb2.TRAINING_TRAINED:
        return classifier_pb2.VERDICT_UNCERTAIN, [classifier_pb2.REASON_UNTRAINED_MODEL]
    reasons = list(_reasons(reduced, card.calibration))
    if classifier_pb2.REASON_NOT_SKIN in reasons:
        return classifier_pb2.VERDICT_REJECTED, reasons
    return (classifier_pb2.VERDICT_UNCERTAIN if reasons else classifier_pb2.VERDICT_CONFIDENT), reasons


def _reasons(reduced: Reduced, fitted: card_pb2.Calibration) -> Iterator[classifier_pb2.Reason]:
    top = reduced.ranking[0]
    if fitted.HasField("max_ood_score") and reduced.ood_score > fitted.max_ood_score:
        yield classifier_pb2.REASON_NOT_SKIN
    if not fitted.HasField("min_confidence"):
        yield classifier_pb2.REASON_UNCALIBRATED_MODEL
    elif reduced.mean[top] < fitted.min_confidence:
        yield classifier_pb2.REASON_LOW_CONFIDENCE
    if fitted.HasField("max_view_std") and reduced.std[top] > fitted.max_view_std:
        yield classifier_pb2.REASON_VIEW_DISAGREEMENT
