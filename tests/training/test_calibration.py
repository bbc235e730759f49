"""Fitting temperature and thresholds."""

import itertools

import numpy as np
import pytest

from dermserve.models.training.evaluate import fitting as fit

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 4000)
# Logits whose softmax at temperature 1 is right: the label is drawn from it.
LOGITS = RNG.normal(0, 2, (4000, 3))
DRAWN = np.array([RNG.choice(3, p=row) for row in fit.softmax(LOGITS)])


def _of_one_view(logits: np.ndarray) -> float:
    return fit.fit_temperature(logits, DRAWN, views=logits[:, np.newaxis], owners=DRAWN)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    assert _of_one_view(LOGITS * temperature) == pytest.approx(temperature, rel=0.06)


def test_temperature_mends_the_calibration_error() -> None:
    sharp = LOGITS * 3
    before = fit.expected_calibration_error(fit.softmax(sharp), DRAWN)
    after = fit.expected_calibration_error(fit.softmax(sharp / _of_one_view(sharp)), DRAWN)
    assert before > 0.1
    assert after < 0.03


def test_the_calibration_error_of_sure_and_half_right_answers_is_a_half() -> None:
    probabilities = np.tile((1.0, 0.0), (100, 1))
    assert fit.expected_calibration_error(probabilities, np.arange(100) % 2) == pytest.approx(0.5)


def test_min_confidence_is_the_lowest_that_names_rightly() -> None:
    confidence = np.linspace(0.5, 1, 101)
    hits = confidence > 0.7
    found = fit.fit_min_confidence(confidence, hits, accuracy=0.95)
    assert hits[confidence >= found].mean() >= 0.95
    assert hits[confidence >= found - 0.005].mean() < 0.95
    assert fit.fit_min_confidence(confidence, np.ones(101, bool), accuracy=0.95) == 0.5
    assert fit.fit_min_confidence(confidence, np.zeros(101, bool), accuracy=0.95) == 1.0


def test_the_adaptive_margin_is_the_lowest_with_the_agreement() -> None:
    top = np.linspace(0.5, 1, 200)
    identity = np.stack((top, 1 - top), axis=1)
    others = identity.copy()
    others[:20] = others[:20, ::-1] - np.array((0.2, -0.2))  # the closest twenty change their mind
    views = np.stack((identity, others, others), axis=1)
    found = fit.fit_looks(views, agreement=0.995)
    agreement, saved = fit.stop_early(views, found)
    assert agreement >= 0.995
    closest = np.sort(2 * top - 1)
    below = closest[closest < found[1]][-1]
    assert fit.stop_early(views, {1: float(below)})[0] < 0.995
    assert saved == pytest.approx(2 / 3 * 0.905, abs=0.01)


def test_turned_views_stand_for_photos_when_the_margin_is_fitted() -> None:
    top = np.linspace(0.6, 1, 100)
    agreeing = np.stack((top, 1 - top), axis=1)
    turned = agreeing.copy()
    turned[:10] = turned[:10, ::-1]
    views = np.stack((agreeing, turned, agreeing, agreeing), axis=1)
    assert fit.fit_looks(views, agreement=0.99) == {1: 0}
    found = fit.fit_looks(views, agreement=0.99, turned=2)
    wrong = 2 * top[:10] - 1  # margins of the ten whose second view answers otherwise
    assert (wrong >= found[1]).sum() == 2  # of two hundred first views
    assert fit.stop_early(views, found)[0] == 1


def test_a_second_look_asks_those_that_the_first_left_open() -> None:
    def views(tops: list[float]) -> np.ndarray:
        return np.stack((tops, 1 - np.asarray(tops)), axis=1)

    sure, torn, wrong = [0.9] * 4, [0.6, 0.7, 0.7, 0.7], [0.9, 0.9, 0.1, 0.0]
    photos = np.stack([views(sure)] * 96 + [views(torn)] * 2 + [views(wrong)] * 2)
    looks = fit.fit_looks(photos, agreement=0.99, views=(1, 2), turned=2)
    assert list(looks) == [1, 2]
    assert 0.8 < looks[1] < 0.801  # at 0.8 two photos would be answered wrongly, and one may be
    agreement, saved = fit.stop_early(photos, {1: 0.5, 2: 0.25})
    assert agreement == pytest.approx(0.98)  # the two stop at once, wrongly
    assert saved == pytest.approx((98 * 3 + 2 * 2) / 400)
    assert fit.stop_early(photos, {1: 0.85, 2: 0.85}) == (1.0, 0.0)


def test_each_look_may_change_few_answers_and_no_more() -> None:
    rng = np.random.default_rng(2)
    views = fit.softmax(rng.normal(0, 0.7, (400, 1, 3)) + rng.normal(0, 0.7, (400, 6, 3)))
    looks = fit.fit_looks(views, agreement=0.95, views=(1, 3), turned=3)
    orders = np.stack([views[:, [a, b, c, 3, 4, 5]] for a, b, c in itertools.permutations(range(3))])
    stopped = [fit.stop_early(order, looks)[0] for order in orders]
    assert 0.9 <= np.mean(stopped) < 0.96  # two times a twentieth, but for what the floor leaves
    assert fit.stop_early(views, {1: looks[1]})[1] < fit.stop_early(views, looks)[1]


def test_a_temperature_for_views_lies_between_that_of_a_view_and_that_of_their_mean() -> None:
    views = LOGITS[:, None] + np.random.default_rng(1).normal(0, 1.5, (len(LOGITS), 10, 3))
    one = _of_one_view(views[:, 0])
    both = fit.fit_temperature(views[:, 0], DRAWN, views=views, owners=DRAWN)
    some = fit.fit_temperature(views[:, 0], DRAWN, views=views[::8], owners=DRAWN[::8])
    means = np.linspace(0.3, 2, 200)
    ten = means[np.argmin([fit.negative_log_likelihood(fit.softmax(views / t).mean(axis=1), DRAWN) for t in means])]
    assert ten < both < one
    assert some == pytest.approx(both, rel=0.05)


def test_a_logit_is_raised_just_enough_for_the_recall() -> None:
    labels = np.repeat((0, 1), (100, 100))
    logits = np.zeros((200, 2))
    logits[:100, 0], logits[100:, 1] = 1, np.linspace(-1, 1, 100)

    def fitted(given: np.ndarray, recall: float) -> float:
        return fit.fit_recall_shift(given, labels, label=1, recall=recall)

    def recall(shift: float) -> float:
        return float(((logits + np.array((0, shift))).argmax(axis=1) == 1)[100:].mean())

    found = fitted(logits, 0.75)
    assert recall(found - 0.02) < 0.75 <= recall(found)
    assert fitted(logits, 0.4) == 0


def test_a_recall_is_not_bought_for_accuracy() -> None:
    labels = np.repeat((0, 1), (100, 10))
    logits = np.zeros((110, 2))
    logits[:100, 0] = np.linspace(0.3, 1, 100)
    logits[100:, 0] = np.linspace(0.05, 0.95, 10)  # from 0.3 on, each that is gained costs more than ten of the others
    shift = fit.fit_recall_shift(logits, labels, label=1, recall=1.0)
    before, after = ((logits + np.array((0, raised))).argmax(axis=1) == labels for raised in (0, shift))
    assert 0.3 <= shift < 0.35
    assert before.mean() <= after.mean()


def test_the_prior_shift_is_taken_where_it_helps() -> None:
    labels = np.repeat((0, 1), (900, 100))
    rng = np.random.default_rng(0)
    logits = np.stack((np.zeros(1000), np.where(labels == 1, 2.0, -0.2) + rng.normal(0, 0.5, 1000)), axis=1)
    assert fit.fit_prior_shift(logits, labels, np.array((0.0, -1.0))) > 0.3
    assert fit.fit_prior_shift(logits, labels, np.array((0.0, 9.0))) < 0.1
