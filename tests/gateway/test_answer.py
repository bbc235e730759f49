"""From scores to an answer: every rule of `dermserve.gateway.answer`, as pure functions."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from dermserve.gateway.answer import (
    NOTICE,
    Judgement,
    Reduced,
    check_scores,
    judge,
    judge_quality,
    reduce_views,
    write_answer,
)
from dermserve.gateway.answer import write_notice as notice_of
from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import Measures
from dermserve.v1 import card_pb2, classifier_pb2
from dermserve.v1.classifier_pb2 import (
    REASON_BLURRED,
    REASON_LOW_CONFIDENCE,
    REASON_NO_COLOR,
    REASON_NOT_SKIN,
    REASON_OUT_OF_SCOPE,
    REASON_TOO_BRIGHT,
    REASON_TOO_DARK,
    REASON_UNCALIBRATED_MODEL,
    REASON_UNIFORM,
    REASON_UNTRAINED_MODEL,
    REASON_VIEW_DISAGREEMENT,
    RISK_LEVEL_HIGH,
    RISK_LEVEL_INTERMEDIATE,
    RISK_LEVEL_LOW,
    RISK_LEVEL_UNSPECIFIED,
    VERDICT_CONFIDENT,
    VERDICT_REJECTED,
    VERDICT_UNCERTAIN,
)

QUALITY = {
    "min_brightness": 60,
    "max_brightness": 220,
    "max_glare": 0.5,
    "min_color": 4,
    "min_detail": 0.3,
    "min_contrast": 0.05,
    "min_redness": 8,
    "max_redness": 90,
    "min_yellowness": -0.1,
    "max_yellowness": 0.5,
}
GOOD = Measures(
    brightness=150,
    sharpness=4,
    glare=0,
    color=9,
    redness=40,
    yellowness=0.15,
    detail=0.4,
    contrast=0.15,
)
CARD = card_pb2.Card(
    classes=[
        card_pb2.ClassInfo(code="mel", name="melanoma", malignant=True),
        card_pb2.ClassInfo(code="bcc", name="carcinoma", malignant=True),
        card_pb2.ClassInfo(code="nv", name="nevus", common_name="mole"),
        card_pb2.ClassInfo(code="bkl", name="keratosis"),
    ],
    weights_digest="abc",
    provenance=card_pb2.Provenance(training=card_pb2.TRAINING_TRAINED),
    calibration=card_pb2.Calibration(
        temperature=1,
        min_confidence=0.6,
        max_view_std=0.1,
        max_ood_score=5,
        max_scope_score=3,
        rule_out={"threshold": 0.05},
        rule_in={"threshold": 0.5},
        quality=QUALITY,
    ),
)
MALIGNANT = np.array([True, True, False, False])


def reduced(mean: tuple[float, ...], *, std: float = 0.0, ood: float = 0.0) -> Reduced:
    rows = np.asarray([mean])
    scores = Scores(1, rows.astype(np.float32), np.asarray([ood], np.float32))
    return reduce_views(scores, card=CARD)._replace(risk_std=std)


BENIGN, OPEN, MALIGN = (0.01, 0.01, 0.9, 0.08), (0.2, 0.1, 0.6, 0.1), (0.7, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("given", "verdict", "reasons", "level"),
    [
        (reduced(BENIGN), VERDICT_CONFIDENT, [], RISK_LEVEL_LOW),
        (reduced((0.0, 0.0, 0.51, 0.49)), VERDICT_CONFIDENT, [], RISK_LEVEL_LOW),  # which benign class does not matter
        (reduced((0.025, 0.025, 0.94, 0.01)), VERDICT_UNCERTAIN, [REASON_LOW_CONFIDENCE], RISK_LEVEL_INTERMEDIATE),
        (reduced((0.06, 0.0, 0.94, 0.0)), VERDICT_UNCERTAIN, [REASON_LOW_CONFIDENCE], RISK_LEVEL_INTERMEDIATE),
        (reduced(OPEN), VERDICT_UNCERTAIN, [REASON_LOW_CONFIDENCE], RISK_LEVEL_INTERMEDIATE),
        (reduced(MALIGN), VERDICT_CONFIDENT, [], RISK_LEVEL_HIGH),
        (reduced((0.4, 0.4, 0.1, 0.1)), VERDICT_CONFIDENT, [], RISK_LEVEL_HIGH),
        (reduced((0.3, 0.3, 0.4, 0.0)), VERDICT_UNCERTAIN, [REASON_LOW_CONFIDENCE], RISK_LEVEL_HIGH),
        (reduced(MALIGN, std=0.11), VERDICT_UNCERTAIN, [REASON_VIEW_DISAGREEMENT], RISK_LEVEL_HIGH),
        (reduced(BENIGN, std=0.11), VERDICT_UNCERTAIN, [REASON_VIEW_DISAGREEMENT], RISK_LEVEL_INTERMEDIATE),
        (reduced(BENIGN, ood=3.1), VERDICT_UNCERTAIN, [REASON_OUT_OF_SCOPE], RISK_LEVEL_INTERMEDIATE),
        (reduced(MALIGN, ood=3.1), VERDICT_UNCERTAIN, [REASON_OUT_OF_SCOPE], RISK_LEVEL_INTERMEDIATE),
        (
            reduced(MALIGN, ood=5.1),
            VERDICT_REJECTED,
            [REASON_NOT_SKIN],
            RISK_LEVEL_UNSPECIFIED,
        ),
        (reduced(OPEN, ood=5.1, std=0.11), VERDICT_REJECTED, [REASON_NOT_SKIN], RISK_LEVEL_UNSPECIFIED),
        (reduced(MALIGN, ood=3.0, std=0.1), VERDICT_CONFIDENT, [], RISK_LEVEL_HIGH),
    ],
)
def test_the_malignancy_risk_decides(given, verdict, reasons, level):
    assert judge(given, GOOD, card=CARD) == Judgement(verdict, tuple(reasons), level)


def test_at_a_threshold_cancer_is_not_ruled_out_and_is_likely_and_a_photo_passes():
    card = _variant()
    card.calibration.rule_out.threshold, card.calibration.rule_in.threshold = 0.25, 0.5
    card.calibration.min_confidence = 0.5
    assert judge(reduced((0.25, 0.0, 0.75, 0.0)), GOOD, card=card).level == RISK_LEVEL_INTERMEDIATE
    likely = (0.5, 0.0, 0.25, 0.25)
    assert judge(reduced(likely), GOOD, card=card) == Judgement(VERDICT_CONFIDENT, (), RISK_LEVEL_HIGH)
    assert write_answer(Scores(1, [likely], [0.0]), GOOD, card=card).named_class == "mel"
    assert judge(reduced(likely, ood=5), GOOD, card=card).verdict == VERDICT_UNCERTAIN


@pytest.mark.parametrize(
    "row",
    [
        (-0.125, 0.5, 0.5, 0.125),
        (1.0625, -0.0625, 0.0, 0.0),
        (0.5, 0.25, 0.125, 0.0625),
        (0.5, 0.5, 0.25, 0.0),
        (0.5, 0.5, 0.0),
        (0.25, 0.25, 0.5, 0.0, 0.0),
        (math.nan, 0.5, 0.25, 0.25),
        (math.inf, 0.0, 0.0, 0.0),
    ],
)
def test_scores_that_are_no_probabilities_of_the_cards_classes_are_refused(row):
    with pytest.raises(InvalidModelOutputError):
        check_scores(Scores(1, [OPEN, row], [0.0, 0.0]), card=CARD)
    with pytest.raises(InvalidModelOutputError):
        check_scores(Scores(1, [OPEN], [math.nan]), card=CARD)
    rounded = Scores(1, [(0.7, 0.1, 0.1, 0.1009)], [0.0])
    assert check_scores(rounded, card=CARD) is rounded
    with pytest.raises(InvalidModelOutputError):
        check_scores(Scores(1, [(0.7, 0.1, 0.1, 0.1011)], [0.0]), card=CARD)


BAD_PHOTOS = [
    ({"brightness": 59}, [REASON_TOO_DARK]),
    ({"brightness": 221}, [REASON_TOO_BRIGHT]),
    ({"glare": 0.51}, [REASON_TOO_BRIGHT]),
    ({"color": 3.9}, [REASON_NO_COLOR]),
    ({"redness": 7}, [REASON_NO_COLOR]),
    ({"redness": 91}, [REASON_NO_COLOR]),
    ({"yellowness": -0.11}, [REASON_NO_COLOR]),
    ({"yellowness": 0.51, "redness": 91, "color": 3.9}, [REASON_NO_COLOR]),
    ({"detail": 0.29}, [REASON_BLURRED]),
    ({"contrast": 0.04}, [REASON_UNIFORM]),
    ({"contrast": 0.0, "color": 0.0, "detail": 0.0}, [REASON_UNIFORM]),
    ({"contrast": 0.0, "color": 0.0, "detail": 0.0, "brightness": 0}, [REASON_TOO_DARK, REASON_UNIFORM]),
    ({"color": 0.0, "detail": 0.1}, [REASON_NO_COLOR, REASON_BLURRED]),
]


@pytest.mark.parametrize(("bad", "reasons"), BAD_PHOTOS)
@pytest.mark.parametrize("mean", [BENIGN, OPEN, MALIGN])
def test_a_bad_photo_is_never_confident_nor_low_and_says_why(bad, reasons, mean):
    found = judge(reduced(mean), dataclasses.replace(GOOD, **bad), card=CARD)
    assert found.verdict == VERDICT_UNCERTAIN
    assert list(found.reasons[: len(reasons)]) == reasons
    high = mean is MALIGN and REASON_UNIFORM not in reasons
    assert found.level == (RISK_LEVEL_HIGH if high else RISK_LEVEL_INTERMEDIATE)


def test_a_photo_at_its_limits_is_good_and_without_limits_every_photo_is():
    for name, limit in QUALITY.items():
        at = dataclasses.replace(GOOD, **{name.split("_", 1)[1]: limit})
        assert not list(judge_quality(at, CARD.calibration.quality))
    for bad, _ in BAD_PHOTOS:
        assert not list(judge_quality(dataclasses.replace(GOOD, **bad), card_pb2.QualityLimits()))


def _variant(**changes: object) -> card_pb2.Card:
    card = card_pb2.Card()
    card.CopyFrom(CARD)
    for name in changes.pop("without", ()):
        card.calibration.ClearField(name)
    for name, value in changes.items():
        setattr(card.provenance, name, value)
    return card


@pytest.mark.parametrize("training", [card_pb2.TRAINING_NONE, card_pb2.TRAINING_UNSPECIFIED])
def test_an_untrained_model_is_never_trusted_whatever_its_thresholds(training):
    found = judge(reduced(BENIGN, ood=99), GOOD, card=_variant(training=training))
    assert found == Judgement(VERDICT_UNCERTAIN, (REASON_UNTRAINED_MODEL,))


@pytest.mark.parametrize("without", [("rule_out",), ("rule_in",), ("rule_out", "rule_in", "min_confidence")])
def test_a_model_without_its_thresholds_says_nothing_of_the_risk(without):
    card = _variant(without=without)
    assert judge(reduced(MALIGN), GOOD, card=card) == Judgement(VERDICT_UNCERTAIN, (REASON_UNCALIBRATED_MODEL,))
    assert judge(reduced(MALIGN, ood=9), GOOD, card=card).verdict == VERDICT_REJECTED


def test_what_the_card_does_not_limit_is_not_held_against_a_photo():
    card = _variant(without=("max_ood_score", "max_scope_score", "max_view_std", "quality"))
    dark = dataclasses.replace(GOOD, brightness=0)
    assert judge(reduced(BENIGN, ood=99, std=0.4), dark, card=card).verdict == VERDICT_CONFIDENT


@pytest.mark.parametrize("views", [1, 3, 10])
def test_whatever_the_scores_and_the_photo_the_promises_hold(views):
    rng = np.random.default_rng(views)
    for _ in range(400):
        probabilities = rng.dirichlet(np.full(4, 0.3), views).astype(np.float32)
        scores = Scores(1, probabilities, rng.uniform(0, 6, views).astype(np.float32))
        bad, _ = BAD_PHOTOS[rng.integers(len(BAD_PHOTOS))]
        answer = write_answer(scores, dataclasses.replace(GOOD, **bad) if rng.random() < 0.3 else GOOD, card=CARD)
        low, confident = answer.malignancy.level == RISK_LEVEL_LOW, answer.verdict == VERDICT_CONFIDENT
        assert confident == (not answer.reasons)
        if low:
            assert confident
            assert answer.malignancy.probability < 0.05
        if confident:
            assert answer.malignancy.level == (RISK_LEVEL_HIGH if answer.classes[0].malignant else RISK_LEVEL_LOW)
        assert (answer.named_class != "") == (confident and answer.classes[0].probability >= 0.6)
        if answer.verdict == VERDICT_REJECTED:
            assert not answer.classes
            assert not answer.HasField("malignancy")
            continue
        assert answer.malignancy.probability == pytest.approx(
            sum(score.probability for score in answer.classes if score.malignant)
        )
        assert answer.malignancy.probability == pytest.approx(probabilities[:, MALIGNANT].sum(axis=1).mean(), abs=1e-6)
        assert answer.malignancy.std == pytest.approx(probabilities[:, MALIGNANT].sum(axis=1).std(), abs=1e-6)


def _any_card(rng: np.random.Generator) -> card_pb2.Card:
    """Give a valid card with thresholds anywhere, any of them absent; one of eight is of a network without training."""
    card = _variant(training=int(rng.choice([card_pb2.TRAINING_TRAINED] * 7 + [card_pb2.TRAINING_NONE])))
    fitted, out = card.calibration, float(rng.uniform(0, 1))
    fitted.rule_out.threshold, fitted.rule_in.threshold = out, float(rng.uniform(out, 1))
    fitted.min_confidence, fitted.max_view_std = rng.uniform(0, 1, 2)
    fitted.max_ood_score, fitted.max_scope_score = rng.uniform(0, 6, 2)
    for name in QUALITY:
        room = rng.uniform(0.5, 1.05) if name.startswith("min_") else rng.uniform(0.95, 1.5)
        setattr(fitted.quality, name, getattr(GOOD, name.split("_", 1)[1]) * room)
    for message in (fitted, fitted.quality):
        for field, _ in message.ListFields():
            if field.name not in ("temperature", "quality") and rng.random() < 0.15:
                message.ClearField(field.name)
    return card


def test_low_is_said_of_no_rejected_bad_strange_or_untrained_photo_by_any_card():
    rng, levels = np.random.default_rng(7), set()
    for _ in range(3000):
        card, views = _any_card(rng), int(rng.integers(1, 11))
        probabilities = rng.dirichlet(np.full(4, 0.3), views).astype(np.float32)
        scores = Scores(1, probabilities, rng.uniform(0, 4, views).astype(np.float32))
        answer = write_answer(scores, GOOD, card=card)
        fitted, risk, ood = card.calibration, answer.malignancy.probability, float(scores.ood_scores[0])
        spoiled = any(judge_quality(GOOD, fitted.quality))
        strange = any(
            fitted.HasField(name) and ood > getattr(fitted, name) for name in ("max_ood_score", "max_scope_score")
        )
        trained = card.provenance.training == card_pb2.TRAINING_TRAINED
        if spoiled or strange or not trained or not (fitted.HasField("rule_out") and fitted.HasField("rule_in")):
            assert answer.malignancy.level != RISK_LEVEL_LOW
            assert answer.verdict != VERDICT_CONFIDENT
            assert not answer.named_class
        if answer.malignancy.level == RISK_LEVEL_LOW:
            assert risk < fitted.rule_out.threshold
        assert bool(answer.classes) == (answer.verdict != VERDICT_REJECTED)
        levels.add(answer.malignancy.level)
    assert levels == set(classifier_pb2.RiskLevel.values())


def test_a_rejected_photo_has_classes_only_for_who_asks():
    scores = Scores(1, np.asarray([MALIGN], np.float32), np.asarray([9], np.float32))
    assert not write_answer(scores, GOOD, card=CARD).classes
    shown = write_answer(scores, GOOD, card=CARD, include_rejected_classes=True)
    assert [score.code for score in shown.classes] == ["mel", "bcc", "nv", "bkl"]
    assert not shown.HasField("malignancy")
    assert shown.named_class == ""


def test_an_answer_names_what_gave_it_and_the_words_for_its_classes():
    scores = Scores(1, np.asarray([BENIGN], np.float32), np.zeros(1, np.float32))
    answer = write_answer(scores, GOOD, card=CARD)
    assert answer.weights_digest == "abc"
    assert [score.std for score in answer.classes] == [0.0] * 4  # of one view
    assert answer.gateway_version
    assert (answer.classes[0].common_name, answer.classes[0].malignant, answer.named_class) == ("mole", False, "nv")


def test_each_level_and_each_reason_that_a_person_can_mend_has_words_of_its_own():
    levels = [notice_of(Judgement(VERDICT_UNCERTAIN, (), level)) for level in classifier_pb2.RiskLevel.values()]
    mendable = set(classifier_pb2.Reason.values()) - {
        classifier_pb2.REASON_UNSPECIFIED,
        REASON_UNTRAINED_MODEL,
        REASON_UNCALIBRATED_MODEL,
        REASON_LOW_CONFIDENCE,
        REASON_VIEW_DISAGREEMENT,
    }
    reasons = [notice_of(Judgement(VERDICT_UNCERTAIN, (reason,))) for reason in mendable]
    for one, other in itertools.combinations([*levels, *reasons], 2):
        assert one != other
    assert all(notice.endswith(NOTICE) for notice in [*levels, *reasons])


def test_ties_are_ranked_in_the_cards_order_and_the_identity_gives_the_ood_score():
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]], np.float32).tolist()
    found = reduce_views(Scores(1, probabilities, [2.0, 7.0]), card=CARD)
    assert found.ranking == (1, 3, 0, 2)
    assert found.ood_score == 2.0
    np.testing.assert_allclose(found.std, [0.075] * 4, atol=1e-7)
    assert (found.risk, found.risk_std) == (pytest.approx(0.5), pytest.approx(0.0))
