"""The papers' grid and their comparison of backbones, on tiny data and random weights."""

import csv
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from dermserve.models.papers import cli, heads
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, Sample
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.predictions import Predictions, Predictor
from dermserve.models.training.train.dataset import prepare
from tests.training.runs import command, tiny

HEAD = 'validation = 0.25\ntest = 0.25\n[[stages]]\nname = "head"\nepochs = 15\ntrainable = "head"\nbatch = 8\n'
EXPERIMENT = f'model = "mobilenet_v3_small"\n{HEAD}'
LABELS = np.arange(280) % 7
SAMPLES = [Sample(Path(f"{index}.png"), f"{index}.png", int(label), str(index)) for index, label in enumerate(LABELS)]
VALUES = (20 * np.eye(7, 16)[LABELS] + np.random.default_rng(0).normal(0, 0.1, (280, 16))).astype(np.float32)
Fill = Callable[..., list[tuple[Any, ...]]]


def means(name: str, *_: object, **__: object) -> keras.Model:
    """Stand for a backbone: the means of areas of the photo."""
    images = keras.Input((224, 224, 3))
    backbone = keras.Model(images, keras.layers.AveragePooling2D(32)(images), name="backbone")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, {"features": pooled, "logits": pooled}, name=name)


@pytest.fixture
def fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fill a table of photos that were not looked at; their features are VALUES."""
    monkeypatch.setattr(heads, "load", means)

    def run(
        settings: Sequence[tuple[float, float, int]], samples: Sequence[Sample] = SAMPLES, extra: str = "",
        values: NDArray[np.float32] = VALUES,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        experiment = tiny(f'model = "resnet50"\n{extra}', HEAD)
        photos = Labelled.whole(np.empty((len(samples), 0)), samples=samples)
        data = types.SimpleNamespace(part=lambda *_: photos)
        monkeypatch.setattr(heads, "prepare", lambda *_, **__: data)
        monkeypatch.setattr(Predictor, "predict", lambda *_: Predictions(np.empty(0), values, photos))
        how = {"backbones": {"resnet50": None}, "settings": settings, "cache": tmp_path}
        return heads.fill_table(experiment, tmp_path, tmp_path / "out" / "table.csv", **how)

    return run


@pytest.mark.slow
def test_each_backbone_gets_a_row(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_train_head", lambda *_: (0.5, 0.25, 1.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    arguments = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    arguments += [
        "--weights",
        "mobilenet",
        "random",
        "--weights",
        "mobilenet_v3_small",
        "random",
        "--cache",
        tmp_path / "c",
    ]
    command(cli.backbones, *arguments)
    with (tmp_path / "out" / "backbones.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "backbone": "mobilenet", "parameters": "3228864", "training_share": "0.6667", "dropout": "0.4", "batch": "8",
        "accuracy": "0.5", "balanced_accuracy": "0.25", "minutes": "1.0",
    }  # fmt: skip
    assert [(row["backbone"], row["parameters"]) for row in rows[1:]] == [("mobilenet_v3_small", "939120")]


@pytest.mark.slow
def test_features_that_tell_the_classes_apart_are_learned_from(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "load", means)
    (tmp_path / "tiny.toml").write_text(EXPERIMENT.replace("epochs = 15", "epochs = 40"))
    arguments = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    command(cli.backbones, *arguments, "--weights", "mobilenet", "random", "--cache", tmp_path / "cache")
    (row,) = csv.DictReader((tmp_path / "out" / "backbones.csv").read_text().splitlines())
    assert (row["backbone"], row["parameters"], row["accuracy"]) == ("mobilenet", "0", "1.0")


def test_a_backbone_that_there_is_not_is_named(photos: Path) -> None:
    options = ["--data", photos, "--out", "x", "--weights", "vgg", "imagenet"]
    assert "'vgg' is not one of 'mobilenet', 'inception_v3'" in command(cli.backbones, *options, code=2)


def test_weights_that_cant_be_loaded_leave_no_folder(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    (tmp_path / "none.h5").write_bytes(b"")
    options = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    options += ["--cache", tmp_path / "cache", "--weights", "mobilenet", tmp_path / "none.h5"]
    assert "do not fit the backbone of mobilenet" in command(cli.backbones, *options, code=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v3_small"])
def test_a_backbone_normalises_the_photo_itself(name: str) -> None:
    network = heads.load(name, None, side=96)
    assert np.isfinite(np.asarray(network(np.full((1, 96, 96, 3), 255, np.float32))["features"])).all()


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    file.write_bytes(b"not HDF5")
    with pytest.raises(RunError, match="do not fit the backbone of mobilenet_v3_small"):
        heads.load("mobilenet_v3_small", file, side=96)


@pytest.mark.slow
def test_the_grid_trains_each_cell_on_its_own_share(tmp_path: Path, fill: Fill) -> None:
    grid = ((0.7, 0.4, 16), (0.8, 0.5, 32))
    (first,) = fill(grid[:1])
    rows = fill(grid)
    assert rows[0] == first  # with its minutes: it is not trained again
    assert [row[2:5] for row in rows] == list(grid)
    assert all(row[5] > 0.9 for row in rows)
    with (tmp_path / "out" / "table.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [row[5] for row in rows]


@pytest.mark.parametrize(("what", "rows"), [(cli.scenarios, 18), (cli.backbones, 4)])
def test_no_test_photo_is_looked_at(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, what: Any, rows: int
) -> None:
    data = prepare(tiny("", EXPERIMENT), photos, cache=tmp_path / "cache")
    asked, looked = list[Labelled](), list[Labelled]()

    def predict(_: Predictor, photos: Labelled, what: str) -> Predictions:
        asked.append(photos)
        return Predictions(np.empty(0), np.full((len(photos), 2), len(what), np.float32), photos)

    monkeypatch.setattr(Predictor, "predict", predict)
    monkeypatch.setattr(heads, "load", means)
    monkeypatch.setattr(heads, "_train_head", lambda _, photos, *__: looked.append(photos) or (0.5, 0.5, 0.5))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    options = ["--data", photos, "--out", tmp_path / "out", "--experiment", tmp_path / "tiny.toml"]
    command(what, *options, "--cache", tmp_path / "cache")
    assert len(looked) == rows
    tested = {sample for sample, part in data.parts.items() if part is Part.TEST}
    assert tested
    for photographed in (*asked, *looked):
        assert tested.isdisjoint(photographed.samples)
        assert len(photographed) == len(data.samples) - len(tested)


def test_the_grids_cells_are_of_its_own_data(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = list[object]()
    monkeypatch.setattr(heads, "_train_head", lambda *given: trained.append(given) or (0.5, 0.5, 0.5))
    others: list[dict[str, Any]] = [{}, {"samples": SAMPLES[:5]}, {"extra": "seed = 2\n"}, {"values": VALUES + 1}]
    for count, other in enumerate(others, 1):
        for _ in range(2):
            fill(heads.GRID[:1], **other)
            assert len(trained) == count
