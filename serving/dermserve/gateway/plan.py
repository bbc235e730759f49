"""Stage *plan*: which views of a photo the model sees, in order, and whether it needs to see more of them.

ADAPTIVE is a sequential test with interim looks: it sees the identity, and more only while the views so far leave the
class open, by margins that were fitted for agreement with all views.
"""

from dataclasses import dataclass

from dermserve.gateway.errors import InvalidTtaModeError
from dermserve.gateway.tfserving import Scores
from dermserve.v1 import card_pb2, classifier_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a plan came to."""

    saved: int | None = None
    """Views that ADAPTIVE did not ask for; None in other modes."""
    agreed: bool | None = None
    """Of a FULL answer: whether ADAPTIVE would have put the same class first; None where nothing tells."""


def read_mode(mode: int) -> int:
    """Check the TTA mode a caller chose; not choosing is TTA_MODE_NONE.

    Raises:
        InvalidTtaModeError: no mode of this gateway's.
    """
    if mode not in classifier_pb2.TtaMode.values():
        raise InvalidTtaModeError(mode, classifier_pb2.TtaMode.keys()[1:])
    return mode or classifier_pb2.TTA_MODE_NONE


def count_first(mode: int, card: card_pb2.Card) -> int:
    """Count the card's views that a TTA mode calls for at once; the first is the identity."""
    if mode == classifier_pb2.TTA_MODE_NONE or (mode == classifier_pb2.TTA_MODE_ADAPTIVE and _looks(card)):
        return 1
    return len(card.views)  # without a fitted margin nothing says when one view is enough


def count_more(mode: int, scores: Scores, card: card_pb2.Card) -> int:
    """Count the views called for after checked scores of the card's first: as many as before where those say enough."""
    seen = len(scores.probabilities)
    if mode != classifier_pb2.TTA_MODE_ADAPTIVE or _stops_at(scores, card) <= seen:
        return seen
    return min((views for views in _looks(card) if views > seen), default=len(card.views))


def weigh(mode: int, scores: Scores, *, asked: int, card: card_pb2.Card) -> Outcome:
    """Say what the plan of a checked answer came to; `asked` is how many views were asked for."""
    if mode == classifier_pb2.TTA_MODE_ADAPTIVE and _looks(card):
        return Outcome(saved=len(card.views) - asked)
    if mode == classifier_pb2.TTA_MODE_FULL and _looks(card):
        enough, every = (_mean(scores, views) for views in (_stops_at(scores, card), len(card.views)))
        return Outcome(agreed=enough.index(max(enough)) == every.index(max(every)))
    return Outcome()


def _stops_at(scores: Scores, card: card_pb2.Card) -> int:
    """Find the views, of those seen, at which the card says to stop; all of the card's where it does at none."""
    for views, margin in _looks(card).items():
        if views <= len(scores.probabilities):
            second, top = sorted(_mean(scores, views))[-2:]
            if top - second >= margin:
                return views
    return len(card.views)


def _looks(card: card_pb2.Card) -> dict[int, float]:
    """Margins by the views after which they are looked at, ascending."""
    fitted = card.calibration
    if not fitted.HasField("adaptive_margin"):
        return {}
    return {1: fitted.adaptive_margin} | {look.views: look.margin for look in fitted.adaptive_looks}


def _mean(scores: Scores, views: int) -> list[float]:
    return [sum(column) / len(column) for column in zip(*scores.probabilities[:views], strict=True)]
