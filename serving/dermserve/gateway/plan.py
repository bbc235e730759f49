"""Stage *plan*: which views of a photo the model sees, in order, and whether it needs to see more of them."""

from dataclasses import dataclass

import numpy as np

from dermserve.gateway.errors import InvalidTtaModeError
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import IDENTITY
from dermserve.v1 import card_pb2, classifier_pb2


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered views of a request, in up to two stages."""

    first: tuple[str, ...]
    """Asked for at once; the first is the identity, by which the not-skin gate judges."""
    rest: tuple[str, ...] = ()
    """Asked for only if the first leave the class open."""


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


def plan_views(mode: int, card: card_pb2.Card) -> Plan:
    """Plan the views a TTA mode calls for."""
    if mode == classifier_pb2.TTA_MODE_NONE:
        return Plan((IDENTITY,))
    if mode == classifier_pb2.TTA_MODE_ADAPTIVE and card.calibration.HasField("adaptive_margin"):
        return Plan((IDENTITY,), tuple(card.views[1:]))
    return Plan(tuple(card.views))  # without a fitted margin nothing says when one view is enough


def is_settled(scores: Scores, card: card_pb2.Card) -> bool:
    """Tell from one checked view whether the card's fitted margin says that further views change nothing."""
    second, top = np.sort(scores.probabilities[0])[-2:]
    return bool(top - second >= card.calibration.adaptive_margin)


def weigh(mode: int, scores: Scores, *, asked: int, card: card_pb2.Card) -> Outcome:
    """Say what the plan of a checked answer came to; `asked` is how many views were asked for."""
    if not card.calibration.HasField("adaptive_margin"):
        return Outcome()
    if mode == classifier_pb2.TTA_MODE_ADAPTIVE:
        return Outcome(saved=len(card.views) - asked)
    if mode != classifier_pb2.TTA_MODE_FULL:
        return Outcome()
    first, mean = scores.probabilities[0], scores.probabilities.mean(axis=0)
    return Outcome(agreed=not is_settled(scores, card) or bool(first.argmax() == mean.argmax()))
