"""Stage *answer*: the prediction in the API's words."""

from collections.abc import Iterable

from dermserve.gateway.reduce import Reduced
from dermserve.gateway.verdict import judge
from dermserve.v1 import card_pb2, classifier_pb2

NOTICE = (
    "Screening aid, not a diagnosis: it can miss skin cancer and can see it where there is none. "
    "When in doubt, or when a spot changes, itches or bleeds, see a dermatologist."
)
"""The screening-aid notice of every answer."""


def write_answer(reduced: Reduced, *, card: card_pb2.Card) -> classifier_pb2.ClassifyResponse:
    """Judge a prediction and write its answer; who asked, what answered and the times are filled in by the caller."""
    verdict, reasons = judge(reduced, card=card)
    return classifier_pb2.ClassifyResponse(
        classes=_ranked(reduced, card.classes),
        verdict=verdict,
        reasons=reasons,
        views_used=reduced.views,
        notice=NOTICE,
    )


def _ranked(reduced: Reduced, classes: Iterable[card_pb2.ClassInfo]) -> list[classifier_pb2.ClassScore]:
    infos = list(classes)
    return [
        classifier_pb2.ClassScore(
            code=infos[index].code,
            name=infos[index].name,
            probability=float(reduced.mean[index]),
            std=float(reduced.std[index]),
        )
        for index in reduced.ranking
    ]
