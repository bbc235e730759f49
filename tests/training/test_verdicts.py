"""Verdicts of many photos at once are those of the gateway."""

import dataclasses

import numpy as np
import pytest
from google.protobuf import json_format

from dermserve.gateway.answer import write_answer
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import Measures, measure
from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.spoiling import SPOILED, spoil
from dermserve.models.training.evaluate.fitting import fit_quality, fit_rule_in, fit_rule_out, lower_bound
from dermserve.models.training.evaluate.predictions import decide
from dermserve.v1 import card_pb2, classifier_pb2

FOUND = {
    "temperature": 1.0,
    "min_confidence": 0.6,
    "max_view_std": 0.15,
    "max_ood_score": 1.0,
    "max_scope_score": 0.7,
    "rule_out": {"threshold": 0.1},
    "rule_in": {"threshold": 0.5},
    "quality": {
        "min_brightness": 60.0,
        "max_brightness": 225.0,
        "max_glare": 0.6,
        "min_color": 3.0,
        "min_detail": 0.29,
        "min_contrast": 0.01,
        "min_redness": 0.0,
        "max_redness": 100.0,
        "min_yellowness": -0.2,
        "max_yellowness": 0.6,
    },
}


@pytest.mark.parametrize("model", list(SPECS))
@pytest.mark.parametrize("views", [1, 10])
def test_the_verdicts_are_the_gateways(model: str, views: int) -> None:
    rng, classes = np.random.default_rng(views), SPECS[model].classes
    card = card_pb2.Card(
        classes=classes,
        provenance=card_pb2.Provenance(training=card_pb2.TRAINING_TRAINED),
        calibration=json_format.ParseDict(FOUND, card_pb2.Calibration()),
    )
    photo = rng.integers(60, 220, (56, 56, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    measures = [measure(photo), *(measure(spoil(photo, kind)) for kind in SPOILED)] * 20
    measures[::2] = [measures[0]] * len(measures[::2])
    probabilities = rng.dirichlet(np.full(len(classes), 0.2), (len(measures), views)).astype(np.float32)
    scores = rng.uniform(0, 1.2, (len(measures), views)).astype(np.float32)
    malignant = np.asarray([item.malignant for item in classes])
    found = decide(probabilities.astype(np.float64), scores[:, 0], measures, malignant, FOUND)
    assert found.strange.any()
    assert not (found.strange & found.rejected).any()
    for index, measured in enumerate(measures):
        answer = write_answer(Scores(1, probabilities[index], scores[index]), measured, card=card)
        assert found.rejected[index] == (answer.verdict == classifier_pb2.VERDICT_REJECTED)
        assert found.confident[index] == (answer.verdict == classifier_pb2.VERDICT_CONFIDENT)
        assert found.low[index] == (answer.malignancy.level == classifier_pb2.RISK_LEVEL_LOW)
        assert found.high[index] == (answer.malignancy.level == classifier_pb2.RISK_LEVEL_HIGH)
        assert found.named[index] == (answer.named_class != "")


def test_rule_out_misses_no_more_than_it_may_and_few_photos_none() -> None:
    risks, lesions = np.linspace(0, 1, 300), [str(index) for index in range(300)]
    threshold = fit_rule_out(risks, np.ones(300, bool), lesions, bound=0.95)
    missed = int((risks < threshold).sum())
    assert lower_bound(300 - missed, 300) >= 0.95 > lower_bound(299 - missed, 300)
    assert fit_rule_out(risks[:50], np.ones(50, bool), lesions, bound=0.95) == risks[0]
    assert lower_bound(50, 50) < 0.95


def test_rule_out_counts_lesions_each_by_its_photo_of_least_risk() -> None:
    risks = np.concatenate([np.linspace(0, 1, 300), np.full(300, 0.99), np.zeros(9)])
    lesions = [*map(str, range(300)), *map(str, range(300)), *(f"benign {index}" for index in range(9))]
    malignant = np.arange(609) < 600
    assert fit_rule_out(risks, malignant, lesions, bound=0.95) == fit_rule_out(
        risks[:300], malignant[:300], lesions[:300], bound=0.95
    )


def test_rule_in_is_the_lowest_with_its_specificity() -> None:
    risks = np.linspace(0, 1, 100)
    threshold = fit_rule_in(risks, np.zeros(100, bool), specificity=0.95)
    assert (risks < threshold).mean() == 0.95
    assert (risks < np.nextafter(threshold, 0)).mean() < 0.95


def test_of_no_set_of_good_photos_more_than_the_share_lies_beyond_a_limit() -> None:
    rng = np.random.default_rng(0)
    names = [field.name for field in dataclasses.fields(Measures)]
    sets = [
        [Measures(**dict(zip(names, row, strict=True))) for row in rng.normal(middle, 1, (size, len(names)))]
        for middle, size in ((20, 190), (50, 4000))  # the smaller set is the worse one by every limit on what is least
    ]
    limits = fit_quality(sets, share=0.01)
    for good in sets:
        for limit, value in limits.items():
            found = np.asarray([getattr(photo, limit.partition("_")[2]) for photo in good])
            beyond = found < value if limit.startswith("min_") else found > value
            assert beyond.mean() <= (0.025 if limit == "min_detail" else 0.01)
