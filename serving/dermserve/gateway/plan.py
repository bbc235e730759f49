"""Stage *plan*: which views of a photo the model sees, in order, and whether it needs to see more of them.

ADAPTIVE is a sequential test with interim looks: the model sees the identity view, and more only while the margin of
the views so far is below a limit. The limits were fitted for agreement with all views.
"""

from dermserve.gateway.errors import GatewayError, listed
from dermserve.gateway.tfserving import Scores
from dermserve.v1 import card_pb2, classifier_pb2

_MODES = frozenset(classifier_pb2.TtaMode.values())


def read_mode(mode: int) -> int:
    """Check the caller's TTA mode; TTA_MODE_UNSPECIFIED becomes TTA_MODE_NONE.

    Raises:
        GatewayError: this gateway does not know the mode.
    """
    if mode not in _MODES:
        known = listed(classifier_pb2.TtaMode.keys()[1:])
        raise GatewayError("INVALID_TTA_MODE", f"TTA mode {mode} is not known here: send one of {known}")
    return mode or classifier_pb2.TTA_MODE_NONE


def count_first(mode: int, card: card_pb2.Card) -> int:
    """Count the card's views of the first stage; the first view is the identity."""
    if mode == classifier_pb2.TTA_MODE_NONE or (mode == classifier_pb2.TTA_MODE_ADAPTIVE and _looks(card)):
        return 1
    return len(card.views)  # without a fitted margin, all views


def count_more(mode: int, scores: Scores, card: card_pb2.Card) -> int:
    """Count the views called for after the scores of the first ones: no more, if those decide the class."""
    seen = scores.views
    if mode != classifier_pb2.TTA_MODE_ADAPTIVE or _stops_at(scores, card) <= seen:
        return seen
    return min((views for views in _looks(card) if views > seen), default=len(card.views))


def count_saved(mode: int, asked: int, card: card_pb2.Card) -> int | None:
    """Count the views that ADAPTIVE did not ask for; None in other modes."""
    return len(card.views) - asked if mode == classifier_pb2.TTA_MODE_ADAPTIVE and _looks(card) else None


def would_agree(mode: int, scores: Scores, card: card_pb2.Card) -> bool | None:
    """Tell whether ADAPTIVE would have put the class first that FULL does; None in other modes."""
    if mode != classifier_pb2.TTA_MODE_FULL or not _looks(card):
        return None
    enough, every = (_mean(scores, views) for views in (_stops_at(scores, card), len(card.views)))
    return enough.index(max(enough)) == every.index(max(every))


def _stops_at(scores: Scores, card: card_pb2.Card) -> int:
    """Count the views after which the card says to stop, of those seen; all of the card's if it does not."""
    for views, margin in _looks(card).items():
        if views <= scores.views:
            second, top = sorted(_mean(scores, views))[-2:]
            if top - second >= margin:
                return views
    return len(card.views)


def _looks(card: card_pb2.Card) -> dict[int, float]:
    """The margin limits by the number of views after which they are checked, ascending."""
    fitted = card.calibration
    if not fitted.HasField("adaptive_margin"):
        return {}
    return {1: fitted.adaptive_margin} | {look.views: look.margin for look in fitted.adaptive_looks}


def _mean(scores: Scores, views: int) -> list[float]:
    return [sum(column) / len(column) for column in zip(*scores.probabilities[:views], strict=True)]
