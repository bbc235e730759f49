"""Spoiled photos: what training varies, what evaluation counts, and what the shipped weights say of them."""

import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dermserve.models.export import SHIPPED
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part
from dermserve.models.training.data.spoiling import HARD, spoil, spoil_at_random
from dermserve.models.training.evaluate import measuring
from dermserve.models.training.evaluate.calibration import Fitted
from dermserve.models.training.evaluate.predictions import Predictor
from dermserve.models.training.train import loop
from dermserve.models.training.train.checkpoint import State
from dermserve.models.training.train.dataset import finished_data
from dermserve.models.training.train.finished import FinishedRun
from tests.training.runs import EXPERIMENT, tiny
from tests.training.test_teachers import small_network

LESION, SKIN = np.full((224, 224, 3), (120, 40, 40), np.uint8), np.full((224, 224, 3), (220, 180, 160), np.uint8)


@pytest.mark.parametrize(
    ("kind", "side"), [("half as large", 112), ("a quarter as large", 56), ("a tenth as large", 22)]
)
def test_a_photo_taken_from_afar_is_small_and_has_skin_around_it(kind: str, side: int) -> None:
    found = spoil(LESION, kind, SKIN)
    assert (found[112, 112] == LESION[0, 0]).all()
    assert (found[:40] == SKIN[0, 0]).all()
    share = (found[..., 0] < 170).mean()  # half-way across the seam
    assert share == pytest.approx(((side - 2 * (side // 16)) / 224) ** 2, rel=0.1)


def test_without_a_photo_of_skin_a_corner_lies_around_it() -> None:
    photo = LESION.copy()
    photo[:40, :40] = SKIN[:40, :40]
    np.testing.assert_array_equal(spoil(photo, "a tenth as large")[:90], SKIN[:90])


def test_photos_to_train_on_are_spoiled_in_many_ways_that_follow_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (224, 224, 3), np.uint8)
    made = [[spoil_at_random(photo, SKIN, rng) for _ in range(12)] for rng in map(np.random.default_rng, (1, 1))]
    np.testing.assert_array_equal(*made)
    for one, other in itertools.combinations([photo, *made[0]], 2):
        assert not np.array_equal(one, other)


def test_a_student_sees_spoiled_photos_and_its_teachers_the_clean_ones() -> None:
    seen: dict[str, list[Any]] = {"student": [], "teacher": []}

    def note(who: str, photos: Any) -> None:
        tf.numpy_function(lambda found: seen[who].append(found.mean(axis=(1, 2, 3))), [photos], [])

    def teacher(photos: Any, *, training: bool) -> dict[str, Any]:
        assert not training
        note("teacher", photos)
        return {"logits": tf.zeros((tf.shape(photos)[0], 3))}

    student = small_network()
    call = student.call
    student.call = lambda photos, **how: (note("student", photos), call(photos, **how))[1]
    images = np.concatenate([np.full((16, 72, 72, 3), 60, np.uint8), np.full((8, 72, 72, 3), 200, np.uint8)])
    labelled = Labelled(images, np.arange(24), np.repeat([0, 1, 2], 8))
    text = EXPERIMENT.replace("flip = true", "spoiled = 0.5").replace("balance = 0.5", "")
    loop._StageRun(student, tiny("", text), State(stage=0), labelled, labelled, [teacher]).epoch()
    clean, spoiled = (np.concatenate(seen[who]) for who in ("teacher", "student"))
    assert sorted(set(clean.round())) == [60, 200]
    changed = np.abs(spoiled[: len(clean)] - clean) > 1
    assert 5 <= changed.sum() <= 19


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_spoiled_photo_of_a_malignant_lesion_is_seldom_low(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = FinishedRun(SHIPPED / "mobilenet_v3_small")
    data = finished_data(run, shared / "data" / "three_class_64", cache=tmp_path)
    predictor = Predictor(network=run.network(shifted=False), cache=tmp_path)
    fitted = Fitted(run.model, run.shift, run.distance, run.calibration)
    found = measuring.spoiled(predictor, fitted, data.part(Part.VALIDATION).every(3))
    assert found["black"] == {"noticed": 1, "malignant_low": 0}
    assert max(found[kind]["malignant_low"] or 0 for kind in HARD) <= 0.1


@pytest.mark.slow
@pytest.mark.shared_data
def test_noise_does_not_make_a_malignant_lesion_low(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = FinishedRun(SHIPPED / "resnet50")  # the weights before called a third of them LOW
    data = finished_data(run, shared / "data" / "ham10000_200x150", cache=tmp_path)
    predictor = Predictor(network=run.network(shifted=False), cache=tmp_path)
    fitted = Fitted(run.model, run.shift, run.distance, run.calibration)
    photos = data.part(Part.VALIDATION)
    ill = np.flatnonzero(fitted.malignant[photos.labels])[::10]
    noisy = np.stack([spoil(photos.images[row], "noise of 25") for row in photos.rows[ill]])
    judged = predictor.predict(Labelled.whole(noisy, photos.labels[ill]), "noisy")
    assert fitted.decide(judged).low.sum() <= 1
