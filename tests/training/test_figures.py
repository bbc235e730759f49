"""Metrics, the not-skin score and TensorFlow Lite."""

import dataclasses
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from dermserve.models import records
from dermserve.models.export import SHIPPED
from dermserve.models.exporter import run_content
from dermserve.models.records import pictures
from dermserve.models.training import conversion
from dermserve.models.training.errors import RunError, file_digest
from dermserve.models.training.evaluate import fitting as fit
from dermserve.models.training.evaluate.fitting import softmax
from dermserve.models.training.evaluate.measuring import intervals, measure
from dermserve.models.training.evaluate.pictures import draw_no_skin
from dermserve.models.training.train.finished import FinishedRun, save_distance

RNG = np.random.default_rng(0)
CODES = ("a", "b", "c")


def test_figures_of_known_answers() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([0, 0, 1, 1, 1, 2])
    found = measure(np.eye(3)[answers], labels, list("uvwxyz"), CODES)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert found["classes"]["b"]["precision"] == pytest.approx(2 / 3)
    assert found["classes"]["c"]["auc"] == 1


def test_a_class_that_is_absent_has_no_auc_and_does_not_count() -> None:
    labels = np.array([0, 0, 1, 1])
    found = measure(np.eye(3)[[0, 2, 1, 1]], labels, list("uvwx"), CODES)
    assert found["classes"]["c"]["auc"] is None
    assert found["balanced_accuracy"] == pytest.approx(0.75)


def test_the_interval_draws_lesions_and_not_photos() -> None:
    labels = np.zeros(200, np.int64)
    answers = np.repeat(np.arange(20) % 2, 10)  # a lesion's ten photos are right or wrong together
    by_lesion = [f"lesion{index // 10}" for index in range(200)]
    by_photo = [f"photo{index}" for index in range(200)]

    low, high = intervals(labels, answers, by_lesion)["accuracy_95"]
    narrow_low, narrow_high = intervals(labels, answers, by_photo)["accuracy_95"]
    assert low < 0.5 < high
    assert high - low > 2 * (narrow_high - narrow_low)


def test_a_few_lesions_that_are_all_right_give_no_certainty() -> None:
    labels, lesions = np.repeat([0, 1], [6, 4]), [*"aabcde", *"fghi"]
    found = intervals(labels, labels, lesions)
    assert found["accuracy_95"] == pytest.approx([0.025 ** (1 / 9), 1])  # exact, of nine lesions
    assert found["balanced_accuracy_95"] == pytest.approx([(0.025 ** (1 / 5) + 0.025 ** (1 / 4)) / 2, 1])
    low, high = intervals(labels, 1 - labels, lesions)["accuracy_95"]
    assert low == 0 < high


def test_no_more_of_a_few_photos_than_the_share_are_beyond_a_limit() -> None:
    found, labels = RNG.uniform(2, 50, 70).astype(np.float32), np.repeat([0, 1, 2], [40, 19, 11])
    limit = fit.fit_max_score(found, labels, false_rejections=0.01, of_class=0.05)
    assert (found > limit).mean() <= 0.01
    assert max((found[labels == label] > limit).mean() for label in range(3)) <= 0.05


WIDTH = 8


def clusters(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw features of three classes; the last two directions are the same for all of them."""
    labels = np.arange(count) % 3
    spread = np.array((1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2))
    return (10 * np.eye(3, WIDTH)[labels] + RNG.normal(0, 1, (count, WIDTH)) * spread).astype(np.float32), labels


def strange(count: int) -> np.ndarray:
    """Draw features like those of a class, but for one of the directions that all classes share."""
    return (clusters(count)[0] + 3 * np.eye(WIDTH)[6]).astype(np.float32)


def test_the_gate_rejects_the_share_it_is_fitted_to_and_what_is_strange() -> None:
    distance = fit.fit_distance(*clusters(900), strangers=strange(50), rank=2)
    features, labels = clusters(1000)
    threshold = fit.fit_max_score(fit.ood_scores(distance, features), labels, false_rejections=0.01, of_class=0.05)
    assert (fit.ood_scores(distance, clusters(2000)[0]) > threshold).mean() == pytest.approx(0.01, abs=0.008)
    assert (fit.ood_scores(distance, strange(100)) > threshold).mean() > 0.99


def test_a_rare_class_that_lies_far_out_is_not_taken_for_strange() -> None:
    found = np.concatenate([np.linspace(0, 10, 980), np.linspace(50, 100, 20)]).astype(np.float32)
    labels = np.repeat([0, 1], [980, 20])
    limit = fit.fit_max_score(found, labels, false_rejections=0.01, of_class=0.05)
    assert (found[labels == 1] > limit).mean() <= 0.05
    assert limit > np.quantile(found, 0.99)
    assert fit.fit_max_score(found / 1000, labels, false_rejections=0.01, of_class=0.05) == 1.0


def test_the_size_of_features_does_not_matter_to_the_gate() -> None:
    distance = fit.fit_distance(*clusters(900), strangers=strange(50), rank=2)
    features = clusters(30)[0]
    np.testing.assert_allclose(fit.ood_scores(distance, 7 * features), fit.ood_scores(distance, features), rtol=1e-3)


def test_the_distance_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED / "resnet50", tmp_path / "run"))
    run_content(folder)
    shutil.copy(SHIPPED / "mobilenet_v3_small" / "distance.npz", folder)
    with pytest.raises(RunError, match=r"distance\.npz is not what the last `dermserve evaluate` wrote: run it again"):
        run_content(folder)


def test_a_distance_comes_back_from_its_file(tmp_path: Path) -> None:
    features, labels = clusters(900)
    distance = fit.fit_distance(features, labels, strangers=strange(50), rank=4)
    save_distance(distance, tmp_path / "distance.npz")
    summary = {"distance": file_digest(tmp_path / "distance.npz")}
    loaded = FinishedRun.distance.fget(types.SimpleNamespace(folder=tmp_path, summary=summary))
    assert loaded.unit
    np.testing.assert_allclose(fit.ood_scores(loaded, features), fit.ood_scores(distance, features), rtol=1e-6)


def test_pictures_without_skin_differ_and_follow_from_the_seed() -> None:
    drawn, again, other = draw_no_skin(64, each=3), draw_no_skin(64, each=3), draw_no_skin(64, each=3, seed=1)
    assert len(drawn) > 5
    for kind, images in drawn.items():
        assert images.shape == (3, 64, 64, 3)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, again[kind])
        assert not np.array_equal(images, other[kind])
        assert not np.array_equal(images[0], images[1])


def test_a_float16_model_answers_and_scores_as_the_shipped_network_does_within_its_scope_and_beyond() -> None:
    run = FinishedRun(SHIPPED / "mobilenet_v3_small")
    network, distance, photos = run.network(), run.distance, pictures(12, side=224)
    assert distance.scope is not None
    outputs = network(photos.astype(np.float32))
    features, logits = np.asarray(outputs["features"]), np.asarray(outputs["logits"])
    limit = float(np.median(fit.ood_scores(dataclasses.replace(distance, scope=None), features)))
    distance = dataclasses.replace(distance, limit=limit)  # some are within it and some beyond
    model = conversion.convert(network, temperature=2, distance=distance)
    assert records.read_file(model, "labels.txt") == "bcc\nscc\nnormal\n"
    ask = conversion.runner(model)
    found = [ask(photo) for photo in photos]
    assert {name: value.shape for name, value in found[0].items()} == {"probabilities": (1, 3), "ood_score": (1,)}
    probabilities = np.concatenate([one["probabilities"] for one in found])
    np.testing.assert_allclose(probabilities, softmax(logits / 2), atol=0.01)
    scores, expected = np.concatenate([one["ood_score"] for one in found]), fit.ood_scores(distance, features)
    assert expected.shape == scores.shape == (12,)
    # float16 rounds weights by 2⁻¹¹. The limits are near 1: far below, where the sure photos are, nothing is decided.
    np.testing.assert_allclose(np.sqrt(scores), np.sqrt(expected), rtol=0.03, atol=0.001)
    assert {*np.sign(expected - 1)} == {-1, 1}
    assert len(model) < 2.5e6
