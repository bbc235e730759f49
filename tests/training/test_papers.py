"""The papers' grid and their comparison of backbones, on tiny data and random weights."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from dermserve.models.papers import cli, heads
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, Sample
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.predictions import Predictions, Predictor
from dermserve.models.training.train import backbones
from dermserve.models.training.train.dataset import prepare
from tests.training.runs import command, tiny

HEAD = 'validation = 0.25\ntest = 0.25\n[[stages]]\nname = "head"\nepochs = 15\ntrainable = "head"\nbatch = 8\n'
EXPERIMENT = f'model = "mobilenet_v3_small"\n{HEAD}'
LABELS = np.arange(280) % 7
SAMPLES = [Sample(Path(f"{index}.png"), int(label), str(index)) for index, label in enumerate(LABELS)]
VALUES = (20 * np.eye(7, 16)[LABELS] + np.random.default_rng(0).normal(0, 0.1, (280, 16))).astype(np.float32)


def features_of(values: np.ndarray, samples: Sequence[Sample] = SAMPLES) -> Predictions:
    """Photos that were not looked at, with these features."""
    return Predictions(np.empty(0), values, Labelled.whole(np.empty((len(samples), 0)), samples=samples))


SEVEN = tiny('model = "resnet50"\n', HEAD)


@pytest.mark.slow
def test_each_backbone_gets_a_row(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_train_head", lambda *_: (0.5, 0.25, 1.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    arguments = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    arguments += ["--weights", "mobilenet=random", "--weights", "mobilenet_v3_small=random", "--cache", tmp_path / "c"]
    command(cli.backbones, *arguments)
    with (tmp_path / "out" / "backbones.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [(row["backbone"], row["parameters"], row["accuracy"], row["balanced_accuracy"]) for row in rows]
    assert found == [("mobilenet", "3228864", "0.5", "0.25"), ("mobilenet_v3_small", "939120", "0.5", "0.25")]


@pytest.mark.slow
def test_features_that_tell_the_classes_apart_are_learned_from(tmp_path: Path, photos: Path) -> None:
    experiment = tiny("", EXPERIMENT.replace("epochs = 15", "epochs = 40"))
    images = keras.Input((224, 224, 3))
    means = keras.Sequential([keras.layers.AveragePooling2D(32)], name="backbone")
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(means(images)), name="means")
    data = prepare(experiment, photos, cache=tmp_path / "cache")
    (row,) = heads.compare(experiment, data, [network])
    assert (row.backbone, row.parameters, row.accuracy) == ("means", 0, 1.0)


def test_a_backbone_that_is_not_known_is_named(photos: Path) -> None:
    said = command(cli.backbones, "--data", photos, "--out", "x", "--weights", "vgg=imagenet", code=2)
    assert "'vgg=imagenet' is not NAME=WEIGHTS" in said


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v3_small"])
def test_a_backbone_normalises_the_photo_itself(name: str) -> None:
    network = heads.load(name, None, side=96)
    assert np.isfinite(np.asarray(network(np.full((1, 96, 96, 3), 255, np.float32)))).all()


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    file.write_bytes(b"not HDF5")
    with pytest.raises(RunError, match="do not fit the backbone of mobilenet_v3_small"):
        heads.load("mobilenet_v3_small", file, side=96)


@pytest.mark.slow
def test_the_grid_trains_each_cell_on_its_own_share(tmp_path: Path) -> None:
    grid, table, features = ((0.7, 0.4, 16), (0.8, 0.5, 32)), tmp_path / "table.csv", features_of(VALUES)
    (first,) = heads.run_grid(SEVEN, features, table, grid=grid[:1])
    cells = heads.run_grid(SEVEN, features, table, grid=grid)
    assert cells[0] == first  # with its minutes: it is not trained again
    assert [(cell.training_share, cell.dropout, cell.batch) for cell in cells] == list(grid)
    assert all(cell.accuracy > 0.9 for cell in cells)
    with table.open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [cell.accuracy for cell in cells]


@pytest.mark.parametrize("text", ["training_share;dropout\n0,7;0,4\n", "a\n0.7,0.4\n", 'a\n"0.7'])
def test_a_table_of_the_grid_that_something_else_wrote_is_refused(tmp_path: Path, text: str) -> None:
    table, features = tmp_path / "table.csv", features_of(VALUES)
    table.write_text(text)
    with pytest.raises(RunError, match=r"table\.csv is damaged .*: remove it to begin again"):
        heads.run_grid(SEVEN, features, table, grid=())


def test_no_test_photo_is_looked_at(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, looked = tiny("", EXPERIMENT), list[Predictions]()
    data = prepare(experiment, photos, cache=tmp_path / "cache")
    images = keras.Input((224, 224, 3))
    means = keras.Sequential([keras.layers.AveragePooling2D(32)], name="backbone")
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(means(images)), name="means")

    def train_head(
        experiment: object, features: Predictions, parts: Mapping[Sample, Part], *_: object
    ) -> tuple[float, float, float]:
        looked.append(features)
        assert Part.TEST not in {parts[sample] for sample in features.photos.samples}
        return 0.5, 0.5, 0.5

    monkeypatch.setattr(heads, "_train_head", train_head)
    heads.compare(experiment, data, [network])
    asked = list[Labelled]()

    def predict(_: Predictor, photos: Labelled, what: str) -> Predictions:
        asked.append(photos)
        return Predictions(np.empty(0), np.ones((len(photos), 2), np.float32), photos)

    monkeypatch.setattr(Predictor, "predict", predict)
    monkeypatch.setattr(backbones, "build_network", lambda *_: network)
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    options = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    command(cli.scenarios, *options, "--cache", tmp_path / "cache")
    assert asked
    assert len(looked) == 1 + 18
    tested = {sample for sample, part in data.parts.items() if part is Part.TEST}
    assert tested
    assert all(tested.isdisjoint(features.photos.samples) for features in looked)


def test_the_grids_cells_are_of_its_own_data(tmp_path: Path) -> None:
    table = tmp_path / "scenarios.csv"

    def run(values: np.ndarray, samples: Sequence[Sample] = SAMPLES, extra: str = "") -> None:
        experiment = tiny(f'model = "resnet50"\n{extra}', HEAD)
        heads.run_grid(experiment, features_of(values, samples), table, grid=())

    run(VALUES)
    run(VALUES)
    with pytest.raises(RunError, match="of a training with another features"):
        run(VALUES + 1)
    with pytest.raises(RunError, match="of a training with another photos"):
        run(VALUES, SAMPLES[:5])
    with pytest.raises(RunError, match="of a training with another experiment"):
        run(VALUES, extra="seed = 2\n")
