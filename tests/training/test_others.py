"""Lesions of other classes as outliers in training: what a network learns of them, and which ones it may see."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dermserve.models.catalogue import SPECS
from dermserve.models.training import cli
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, Sample, write_split
from dermserve.models.training.errors import DataError
from dermserve.models.training.train import loop
from dermserve.models.training.train import run as training
from dermserve.models.training.train.checkpoint import State
from dermserve.models.training.train.dataset import CODES, OTHERS, Data, read_others
from tests.training.conftest import draw
from tests.training.runs import EXPERIMENT, command, instead_of_training, tiny, untrained
from tests.training.test_teachers import small_network

OUTLIERS = f"outliers = 0.5\n{EXPERIMENT}"


@pytest.fixture(scope="module")
def ham10000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class of HAM10000, four photos each."""
    base = tmp_path_factory.mktemp("others") / "ham10000"
    for label, code in enumerate(CODES):
        for index in range(4):
            draw(base / code / f"other_{code}_{index}.png", label=label % 3, seed=1000 * label + index)
    return base


def known(folder: Path) -> Data:
    """A data set of a model, without a photo."""
    return Data({}, SPECS["mobilenet_v3_small"], folder / "cache")


@pytest.mark.parametrize("outliers", [0.0, 0.9])
def test_a_network_is_sure_of_its_own_lesions_and_not_of_outliers(outliers: float) -> None:
    text = EXPERIMENT.replace("rate = 1e-3", "rate = 0.1").replace("epochs = 1", "epochs = 30")
    experiment, network = tiny(f"outliers = {outliers}\n", text), small_network()
    light, dark = (np.full((64, 72, 72, 3), level, np.uint8) for level in (220, 20))
    own, others = Labelled(light, np.arange(64), np.full(64, 2)), Labelled.whole(dark, np.arange(64) % 7)
    stage = loop._StageRun(network, experiment, State(stage=0), own, own, others=others)
    while not stage.ended:
        stage.epoch()
    probability = np.exp(network(np.stack([light[0], dark[0]]).astype(np.float32))["logits"].numpy())
    probability /= probability.sum(axis=1, keepdims=True)
    assert probability[0, 2] > 0.8, probability
    assert (probability[1, 2] < 0.5) == bool(outliers), probability


@pytest.mark.usefixtures("tiny_networks")
def test_a_continued_run_trains_on_the_other_lesions_that_do_not_measure_the_scope(
    photos: Path, ham10000: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained(tiny(), photos, tmp_path / "begun")
    drawn = read_others(known(tmp_path), ham10000, recorded=run.folder / OTHERS)
    write_split(run.folder / OTHERS, drawn.own)
    trained = {sample.name for sample in drawn.part(Part.TRAIN).samples}
    held = {sample.name for sample in drawn.samples} - trained
    assert held
    assert not any(name.startswith("bcc/") for name in held | trained)  # which the model knows
    # The run's own split counts, not the one that would be drawn today.
    rows = list(csv.reader((run.folder / OTHERS).read_text().splitlines()))
    swap = {"train": "test", "test": "train"}
    with (run.folder / OTHERS).open("w", newline="") as file:
        csv.writer(file).writerows([[swap.get(value, value) for value in row] for row in rows])
    instead_of_training(monkeypatch)
    seen: list[Sample] = []
    monkeypatch.setattr(training, "train", lambda *_, others, **__: seen.extend(others.samples) or [])
    (tmp_path / "tiny.toml").write_text(OUTLIERS)
    options = ["--data", photos, "--start", run.folder, "--others", ham10000, "--cache", tmp_path / "cache"]
    command(cli.train, run.model, *options, "--experiment", tmp_path / "tiny.toml", "--out", tmp_path / "out")
    assert seen
    assert {sample.name for sample in seen} <= held
    assert (tmp_path / "out" / OTHERS).read_bytes() == (run.folder / OTHERS).read_bytes()


def test_a_recorded_split_is_kept_where_equal_names_lie_in_several_folders(tmp_path: Path) -> None:
    for label, code in enumerate(("mel", "nv", "bkl")):
        for index in range(8):
            draw(tmp_path / "photos" / code / f"{index}.png", label=label, seed=1000 * label + index, side=40)
    drawn = read_others(known(tmp_path), tmp_path / "photos", recorded=tmp_path / OTHERS)
    write_split(tmp_path / OTHERS, drawn.own)
    assert read_others(known(tmp_path), tmp_path / "photos", recorded=tmp_path / OTHERS).parts == drawn.parts


def test_a_folder_without_enough_other_lesions_is_refused(photos: Path, tmp_path: Path) -> None:
    draw(tmp_path / "few" / "mel" / "a.png", label=0, seed=1)
    for folder in (photos, tmp_path / "few"):
        with pytest.raises(DataError, match="too few lesions that mobilenet_v3_small does not know, none for"):
            read_others(known(tmp_path), folder, recorded=tmp_path / OTHERS)


@pytest.mark.parametrize(
    ("text", "others", "said"), [(OUTLIERS, False, "pass HAM10000"), (EXPERIMENT, True, "leave out HAM10000")]
)
def test_outliers_and_other_lesions_need_each_other(
    text: str, others: bool, said: str, photos: Path, ham10000: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(text)
    options = ["--data", photos, "--experiment", tmp_path / "tiny.toml", "--cache", photos.parent / "cache"]
    options += ["--others", ham10000] if others else []
    assert said in command(cli.train, "mobilenet_v3_small", *options, "--out", tmp_path / "out", code=2)
