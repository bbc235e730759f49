"""What another processor or batch size rounds differently stays within the tolerances, and is no reason to refuse."""

import dataclasses
import itertools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from dermserve.models.architectures import build
from dermserve.models.exporter import Content, write_version
from dermserve.models.graph import _distance
from dermserve.models.rounding import MAX_GAIN, ROUNDING, allowed, comparable
from dermserve.models.training.evaluate import fitting as fit
from dermserve.models.verify import open_version
from dermserve.v1 import card_pb2
from tests.conftest import ROOT

RNG = np.random.default_rng(0)


def features(photos: int, size: int, spread: float) -> np.ndarray:
    """Features that hardly differ, as those of a network that was trained for a minute."""
    return (1 + spread * RNG.standard_normal((photos, size))).astype(np.float32)


@pytest.mark.parametrize(
    ("photos", "classes"),
    [
        (features(18, 576, 1e-4), np.arange(18) % 3),  # fewer photos than features
        (features(3, 64, 1e-2), np.arange(3)),  # one of each class
        (np.repeat(features(3, 64, 1e-3), 8, axis=0), np.repeat(np.arange(3), 8)),  # the same photo again and again
        (np.ones((12, 64), np.float32), np.arange(12) % 3),  # nothing differs
        (features(400, 64, 0.3), np.arange(400) % 3),
    ],
)
def test_a_score_is_known_to_within_rounding_however_alike_photos_are(photos, classes):
    distance = fit.fit_distance(photos, classes, strangers=features(20, photos.shape[1], 1), rank=16)
    assert np.linalg.norm(distance.projection, ord=2) <= MAX_GAIN * 1.001
    roots = answers(distance, photos)
    assert np.abs(roots[0] - roots[1]).max() <= MAX_GAIN * ROUNDING


def answers(distance, given):
    """What two processors make of features, in float32."""
    length = np.linalg.norm(given, axis=1, keepdims=True)
    other = given + RNG.uniform(-1, 1, given.shape) * ROUNDING / 2 * length / given.shape[1] ** 0.5
    return [comparable("ood_score", fit.ood_scores(distance, each.astype(np.float32))) for each in (given, other)]


@pytest.mark.parametrize("dead", [0, 1e-9, 1e-7, 1e-5])
def test_a_scope_does_not_rest_on_features_that_hardly_vary(dead):
    """As of a network with units that are nearly dead: its scope once had weights of 265,000."""
    known, others = features(200, 64, 0.1), features(200, 64, 0.1)
    for photos in (known, others):
        photos[:, 32:] = dead * np.abs(RNG.standard_normal((200, 32)))
    others[:, 40] += 3 * dead  # told apart by units that are nearly dead, and by one that lives
    others[:, 3] += 0.1
    distance = fit.fit_distance(known, np.arange(200) % 3, strangers=others, rank=16)
    scope = fit.fit_scope(known, others=others, weights=np.ones(200))
    assert np.linalg.norm(scope[:-1]) <= MAX_GAIN * 1.001
    whole = dataclasses.replace(distance, scope=scope, limit=1e9)
    one, two = answers(whole, others)
    assert np.abs(one - two).max() <= MAX_GAIN * ROUNDING
    assert (fit.ood_scores(whole, others) > 0.5).mean() > 0.6 > (fit.ood_scores(whole, known) > 0.5).mean()


@pytest.mark.parametrize("spread", [0, 1e-7, 1e-5])
def test_what_hardly_varies_is_not_strange_to_itself(spread):
    photos, classes = features(24, 64, spread), np.arange(24) % 3
    distance = fit.fit_distance(photos, classes, strangers=features(20, 64, 1), rank=16)
    limit = fit.fit_max_score(fit.ood_scores(distance, photos), classes, false_rejections=0.01, of_class=0.05)
    assert limit >= 1
    whole = dataclasses.replace(distance, scope=fit.fit_scope(photos, others=photos, weights=np.ones(24)), limit=limit)
    for one in (distance, whole):
        assert (fit.ood_scores(one, features(24, 64, spread)) <= limit).all()
        assert np.isfinite(fit.ood_scores(one, features(5, 64, 1))).all()
        assert (fit.ood_scores(one, features(5, 64, 1)) > 1).all()


def test_a_class_without_a_training_photo_is_left_out():
    photos = features(20, 64, 0.1)
    distance = fit.fit_distance(photos, np.arange(20) % 2 * 2, strangers=features(20, 64, 1), rank=80)
    assert distance.centers.shape == (2, 64)
    assert distance.projection.shape == (64, 64)


def test_a_score_near_a_center_is_not_what_cancels():
    """A difference of two large projections in float32 gave 35.160 or 35.173."""
    photos, classes = features(18, 576, 3e-6), np.arange(18) % 3
    distance = fit.fit_distance(photos, classes, strangers=features(20, 576, 1), rank=16)
    given = (photos / np.linalg.norm(photos, axis=1, keepdims=True)).astype(np.float32)
    wide = [((given.astype(float) - center) @ distance.projection.astype(float)) for center in distance.centers]
    exact = np.sqrt(np.min([(one**2).sum(axis=1) for one in wide], axis=0))
    found = np.asarray(_distance(tf.constant(given), dataclasses.replace(distance, unit=False)))
    np.testing.assert_allclose(np.sqrt(found), exact, rtol=1e-4, atol=1e-4)


SCRIPT = """
import pathlib, sys
import numpy as np
from tests.models.test_rounding import of_pictures
np.savez(sys.argv[2], *of_pictures(pathlib.Path(sys.argv[1])))
"""
OUTPUTS = ("logits", "ood_score", "probabilities")


def of_pictures(folder: pathlib.Path) -> list[np.ndarray]:
    """A version's outputs for ten pictures in a batch, then for each alone."""
    images = np.random.default_rng(1).integers(0, 256, (10, 224, 224, 3), np.uint8)
    with open_version(folder) as run:
        batches = [images, *np.split(images, len(images))]
        found = [run("serving_default", {"images": batch}) for batch in batches]
    alone = [np.concatenate([one[name] for one in found[1:]]) for name in OUTPUTS]
    return [*(found[0][name] for name in OUTPUTS), *alone]


@pytest.mark.slow
def test_other_processors_and_batch_sizes_give_the_same_answers(tmp_path: pathlib.Path) -> None:
    """On this processor, without oneDNN, and with oneDNN as on one that has no AVX-512."""
    keras.utils.set_random_seed(0)
    alike = (1 + 1e-5 * RNG.standard_normal((18, 576))).astype(np.float32)
    distance = fit.fit_distance(alike, np.arange(18) % 3, strangers=alike[:6] * 2 + 1, rank=16)
    origin = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization="random")
    content = Content(network=build("mobilenet_v3_small"), provenance=origin, distance=distance)
    write_version(content, tmp_path)  # which verifies batches of 1 and 10
    folder = tmp_path / "mobilenet_v3_small" / "1"
    runs = [of_pictures(folder)]
    for other in ({"TF_ENABLE_ONEDNN_OPTS": "0"}, {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}):
        command = [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "outputs.npz")]
        environment = {**os.environ, **other}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(tmp_path / "outputs.npz") as kept:
            runs.append(list(kept.values()))
    answers_of_all = [dict(zip(OUTPUTS, half, strict=True)) for run in runs for half in (run[:3], run[3:])]
    for one, other in itertools.permutations(answers_of_all, 2):
        for name in OUTPUTS:
            limit = allowed(one, temperature=1)[name]
            assert np.abs(comparable(name, one[name]) - comparable(name, other[name])).max() <= limit, name
