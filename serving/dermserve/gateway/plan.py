"""Stage *plan*: which views of a photo the model sees, in order."""

from dermserve.gateway.errors import InvalidTtaModeError
from dermserve.imaging import IDENTITY
from dermserve.v1 import card_pb2, classifier_pb2

_MODES = (classifier_pb2.TTA_MODE_NONE, classifier_pb2.TTA_MODE_FULL)


def read_mode(mode: int) -> int:
    """Check the TTA mode a caller chose; not choosing is TTA_MODE_NONE.

    Raises:
        InvalidTtaModeError: no mode of this gateway's.
    """
    if mode == classifier_pb2.TTA_MODE_UNSPECIFIED:
        return classifier_pb2.TTA_MODE_NONE
    if mode not in _MODES:
        raise InvalidTtaModeError(mode, [classifier_pb2.TtaMode.Name(known) for known in _MODES])
    return mode


def plan_views(mode: int, card: card_pb2.Card) -> tuple[str, ...]:
    """Name the views a TTA mode calls for; the first is always the identity, by which the not-skin gate judges."""
    return tuple(card.views) if mode == classifier_pb2.TTA_MODE_FULL else (IDENTITY,)
