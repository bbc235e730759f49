"""What another processor or batch size rounds differently stays within the tolerances, and is no reason to refuse."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dermserve.models.rounding import MAX_GAIN, ROUNDING, comparable
from dermserve.models.training import ood

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
    distance = ood.fit_distance(photos, classes, strangers=features(20, photos.shape[1], 1), rank=16)
    assert np.linalg.norm(distance.projection, ord=2) <= MAX_GAIN * 1.001
    length = np.linalg.norm(photos, axis=1, keepdims=True)
    other = photos + (RNG.uniform(-1, 1, photos.shape) * ROUNDING / 2 * length / photos.shape[1] ** 0.5)
    roots = [comparable("ood_score", ood.scores(distance, given.astype(np.float32))) for given in (photos, other)]
    assert np.abs(roots[0] - roots[1]).max() <= MAX_GAIN * ROUNDING


SCRIPT = """
import sys, pathlib
import numpy as np
import keras
from dermserve.models import architectures, graph, rounding, verify
from dermserve.models.training import ood
from dermserve.models.version import Content, write_version
from dermserve.v1 import card_pb2

keras.utils.set_random_seed(0)
network = architectures.build("mobilenet_v3_small")
base, file = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
rng = np.random.default_rng(0)
if not (base / "mobilenet_v3_small").exists():
    alike = (1 + 1e-5 * rng.standard_normal((18, 576))).astype(np.float32)
    distance = ood.fit_distance(alike, np.arange(18) % 3, strangers=alike[:6] * 2 + 1, rank=16)
    origin = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization="random")
    write_version(Content(network=network, provenance=origin, distance=distance), base)  # verifies batches of 1 and 10
images = np.random.default_rng(1).integers(0, 256, (10, 224, 224, 3), np.uint8)
with verify.open_version(base / "mobilenet_v3_small" / "1") as run:
    together = run("serving_default", {"images": images})
    alone = [run("serving_default", {"images": image[np.newaxis]}) for image in images]
answers = [together, {name: np.concatenate([one[name] for one in alone]) for name in together}]
if file.exists():
    with np.load(file) as kept:
        answers.append(dict(kept))
np.savez(file, **together)
for expected in answers:
    for name, limit in rounding.allowed(expected, temperature=1).items():
        if name in expected:
            worst = np.abs(rounding.comparable(name, together[name]) - rounding.comparable(name, expected[name])).max()
            assert worst <= limit, (name, worst, limit)
"""


@pytest.mark.slow
def test_other_processors_and_batch_sizes_give_the_same_answers(tmp_path: pathlib.Path) -> None:
    processors = [{"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}]
    for processor in processors:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "store"), str(tmp_path / "answers.npz")]
        done = subprocess.run(command, env={**os.environ, **processor}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
