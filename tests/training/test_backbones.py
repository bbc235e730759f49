"""Comparing backbones, on tiny data and random weights."""

import csv
import pathlib

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from dermserve.models.papers import cli, heads
from dermserve.models.training.errors import RunError
from dermserve.models.training.train.dataset import prepare
from dermserve.models.training.train.experiment import parse_experiment

from .conftest import draw

EXPERIMENT = """
model = "mobilenet_v3_small"
validation = 0.25
test = 0.25
[[stages]]
name = "head"
epochs = 3
trainable = "head"
batch = 8
"""


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    for label, code in enumerate(("bcc", "scc", "normal")):
        for index in range(12):
            draw(tmp_path / "photos" / code / f"{code}_{index:02}.png", label=label, seed=100 * label + index)
    return tmp_path / "photos"


@pytest.mark.slow
def test_each_backbone_gets_a_row(tmp_path: pathlib.Path, photos: pathlib.Path) -> None:
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    arguments = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    arguments += ["--weights", "mobilenet=random", "--weights", "mobilenet_v3_small=random", "--cache", tmp_path / "c"]
    result = CliRunner().invoke(cli.backbones, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "backbones.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["backbone"], row["parameters"]) for row in rows] == [
        ("mobilenet", "3228864"),
        ("mobilenet_v3_small", "939120"),
    ]
    assert all(0 < float(row["accuracy"]) <= 1 for row in rows)
    tested = [row for row in rows if row["test_accuracy"]]
    assert [row["accuracy"] for row in tested] == [max(row["accuracy"] for row in rows)]


@pytest.mark.slow
def test_features_that_tell_the_classes_apart_are_learned_from(tmp_path: pathlib.Path, photos: pathlib.Path) -> None:
    experiment = parse_experiment(EXPERIMENT.replace("epochs = 3", "epochs = 40\nrate = 1e-2"), name="tiny")
    images = keras.Input((224, 224, 3))
    means = keras.Sequential([keras.layers.AveragePooling2D(32)], name="backbone")
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(means(images)), name="means")
    data = prepare(experiment, photos, cache=tmp_path / "cache")
    (row,) = heads.compare(experiment, data, [network], progress=lambda *_: None)
    assert (row.backbone, row.parameters, row.accuracy) == ("means", 0, 1.0)


def test_a_backbone_that_is_not_known_is_named(photos: pathlib.Path) -> None:
    result = CliRunner().invoke(cli.backbones, ["--data", str(photos), "--out", "x", "--weights", "vgg=imagenet"])
    assert result.exit_code == 2
    assert "'vgg=imagenet' is not NAME=WEIGHTS" in result.output


def test_every_backbone_normalises_the_photo_itself() -> None:
    for name in ("mobilenet", "mobilenet_v3_small"):
        network = heads.load(name, None, side=96)
        assert np.isfinite(np.asarray(network(np.full((1, 96, 96, 3), 255, np.float32)))).all()


def test_a_file_that_holds_no_weights_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "other.weights.h5"
    file.write_bytes(b"not HDF5")
    with pytest.raises(RunError, match="does not hold weights for the backbone of mobilenet_v3_small"):
        heads.load("mobilenet_v3_small", file, side=96)
