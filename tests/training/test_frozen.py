"""Running the frozen layers once: the same network in two halves, and the same training."""

from pathlib import Path

import keras
import numpy as np
import pytest

from dermserve.models.architectures import build
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.train import run as runs
from dermserve.models.training.train.experiment import Experiment, parse_experiment
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.frozen import compute_frozen, split_frozen
from dermserve.models.training.train.network import training_copy
from tests.training.runs import start

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
HEAD = """
validation = 0.25
test = 0.25
fold_batch_norm = true
[[stages]]
name = "head"
epochs = 2
rate = 1e-3
batch = 4
"""


def experiment(model: str, trainable: str, extra: str = "") -> Experiment:
    return parse_experiment(f'model = "{model}"\n{HEAD}trainable = "{trainable}"\n{extra}', name="test")


@pytest.mark.parametrize(("model", "trainable"), [("resnet50", "from:conv5_block1"), ("mobilenet_v3_small", "head")])
def test_the_halves_compute_what_the_whole_does(model: str, trainable: str) -> None:
    keras.utils.set_random_seed(1)
    copy = training_copy(build(model), folded=True, precision="float32")
    halves = split_frozen(copy, experiment(model, trainable))
    assert halves is not None
    photos = PIXELS.astype(np.float32)
    expected, found = copy(photos), halves.upper(halves.lower(photos))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4)
    assert len(halves.upper.trainable_variables) < len(copy.trainable_variables)


@pytest.fixture(scope="module")
def copy() -> keras.Model:
    return training_copy(build("mobilenet_v3_small"), folded=True, precision="float32")


@pytest.mark.parametrize(
    ("trainable", "extra"),
    [("all", ""), ("head", "side = 96"), ("head", "[augmentation]\nflip = true"), ("top:2", "zoom = [0.5, 1.0]")],
)
def test_nothing_is_frozen_where_the_photos_vary_or_every_layer_learns(
    copy: keras.Model, trainable: str, extra: str
) -> None:
    assert split_frozen(copy, experiment("mobilenet_v3_small", trainable, extra)) is None


def test_frozen_layers_are_run_whole_and_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def answer(images: np.ndarray) -> np.ndarray:
        return keras.ops.mean(images, axis=(1, 2))

    inputs = keras.Input((8, 8, 3))
    lower = keras.Model(inputs, keras.layers.Lambda(answer, output_shape=(3,))(inputs))
    images = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3)).astype(np.uint8)
    photos = Labelled(images, np.arange(140), np.zeros(140, np.int64))

    def stop(_: str, done: int, whole: int) -> None:
        raise KeyboardInterrupt

    def note(_: str, done: int, whole: int) -> None:
        calls.append(done)

    with pytest.raises(KeyboardInterrupt):
        compute_frozen(lower, photos, tmp_path, progress=stop)
    found = compute_frozen(lower, photos, tmp_path, progress=note)
    assert calls == [64, 128, 140]  # of what was stopped nothing is left
    compute_frozen(lower, photos, tmp_path, progress=note)
    assert calls == [64, 128, 140]
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_allclose(found[:140], images[:140].mean(axis=(1, 2)), rtol=1e-3)
    assert not found[140:].any()


def test_training_on_frozen_outputs_learns_what_training_on_photos_does(
    tiny_networks: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiment("mobilenet_v3_small", "head")

    def train(out: Path) -> list[np.ndarray]:
        start(chosen, photos, out)
        weights: list[np.ndarray] = FinishedRun(out).network().get_weights()
        return weights

    found = train(tmp_path / "frozen")
    assert not list((tmp_path / "frozen").glob("frozen-*"))
    monkeypatch.setattr(runs, "split_frozen", lambda *_: None)
    for mine, other in zip(found, train(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)
