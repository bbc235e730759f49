"""Going on from a finished run, and photos of the same lesions at another resolution."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dermserve.models.training import cli
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part
from dermserve.models.training.errors import DataError
from dermserve.models.training.train import backbones, loop
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.checkpoint import State
from dermserve.models.training.train.dataset import finished_data, prepare, read_also, with_also
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.network import training_copy
from tests.tiny import tiny_network
from tests.training.conftest import draw, draw_photos
from tests.training.runs import EXPERIMENT, command, instead_of_training, tiny, untrained

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def begun(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run whose weights are those it began with."""
    run = untrained(tiny(), photos, tmp_path_factory.mktemp("runs") / "begun")
    run.update(data="photos of a clinic", license="CC BY-NC 4.0", tested=[{"reason": "the first"}])
    return run


@pytest.fixture
def options(begun: FinishedRun, photos: Path, tmp_path: Path) -> list[object]:
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    base = ["--data", photos, "--out", tmp_path / "out", "--cache", photos.parent / "cache", "--start", begun.folder]
    return [*base, "--experiment", tmp_path / "tiny.toml"]


def test_a_continued_run_has_the_weights_the_split_the_licence_and_the_looks_at_test_photos_of_the_one_before(
    begun: FinishedRun, options: list[object], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_training(monkeypatch)
    also = Path(shutil.copytree(photos, tmp_path / "also"))
    (also / "dataset.toml").write_text('name = "Large"\nlicense = "CC0"\n')
    command(cli.train, "mobilenet_v3_small", *options, "--also", also)
    run = FinishedRun(tmp_path / "out")
    assert run.split == begun.split
    said = "photos of a clinic; Large (source not stated; CC0)", "CC BY-NC 4.0; CC0: that of the training data"
    assert (run.summary["data"], run.summary["license"]) == said
    assert begun.folder.name in run.summary["initialization"]
    assert run.summary["tested"] == [{"reason": "the first"}]
    head, logits = (run.network().get_layer("logits"), begun.network().get_layer("logits"))
    np.testing.assert_array_equal(np.asarray(head.kernel), np.asarray(logits.kernel))


def test_a_start_of_another_model_and_two_kinds_of_initial_weights_are_refused(options: list[object]) -> None:
    said = command(cli.train, "mobilenet_v3_small", *options, "--weights", "random", code=2)
    assert "leave --weights out" in said
    assert "is a run of mobilenet_v3_small" in command(cli.train, "resnet50", *options[:-2], code=2)


def test_a_continued_run_has_the_dropout_and_the_penalty_that_its_own_experiment_says(
    options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_training(monkeypatch)
    asked = list[dict[str, object]]()
    monkeypatch.setattr(backbones, "build", lambda model, **how: asked.append(how) or tiny_network(model))
    (tmp_path / "tiny.toml").write_text(f"dropout = 0.1\nl2 = 0.5\n{EXPERIMENT}")
    command(cli.train, "mobilenet_v3_small", *options)
    assert [(how["dropout"], how["l2"]) for how in asked] == [(0.1, 0.5)]


def test_a_data_sets_folder_has_a_name_that_any_file_can_hold(begun: FinishedRun, photos: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/H\xe4m"))
    try:
        shutil.copytree(photos, odd)
    except OSError:
        pytest.skip("this file system has names of UTF-8 alone")
    assert (
        finished_data(begun, odd, cache=tmp_path / "cache").name == "H\ufffdm"
    )  # it goes into run.json and the report


def test_photos_of_also_are_for_what_their_lesions_are(
    begun: FinishedRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = tmp_path / "larger"
    shutil.copytree(photos, larger)
    shutil.rmtree(larger / "normal")
    draw(larger / "bcc" / "of_nobody_known.png", label=0, seed=5)
    own = finished_data(begun, photos, cache=tmp_path / "cache")
    both = with_also(own, larger)
    assert len(both.samples) == 36 + 24
    assert "left out 1 of 25 photos" in capsys.readouterr().err
    for sample in both.samples[36:]:
        assert both.parts[sample] is begun.split[sample.name.removeprefix("larger/")].part
    assert both.own == own.parts
    training = both.part(Part.TRAIN)
    assert training.possible is not None
    ours = training.rows < 36
    assert training.possible[ours].all()
    assert (training.possible[~ours] == (1, 1, 0)).all()


def test_equal_names_in_several_folders_are_matched_by_class_or_refused(tmp_path: Path) -> None:
    for label, code in enumerate(("bcc", "scc", "normal")):
        for index in range(8):
            draw(tmp_path / "own" / code / f"{index}.png", label=label, seed=10 * label + index, side=40)
            draw(tmp_path / "also" / code / f"{index}.png", label=label, seed=10 * label + index, side=48)
    own = prepare(tiny(), tmp_path / "own", cache=tmp_path / "cache")
    also = read_also(own, tmp_path / "also")
    parts = {sample.name: part for sample, part in own.parts.items()}
    assert all(part is parts[sample.name.removeprefix("also/")] for sample, part in also.parts.items())
    draw(tmp_path / "own" / "bcc" / "b" / "1.png", label=0, seed=99, side=40)
    own = prepare(tiny(), tmp_path / "own", cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"also/bcc/1\.png may be bcc/(b/)?1\.png or bcc/(b/)?1\.png: rename"):
        read_also(own, tmp_path / "also")


def test_a_folder_of_other_photos_is_refused(begun: FinishedRun, photos: Path, tmp_path: Path) -> None:
    other = draw_photos(tmp_path / "other", each=1)
    for file in other.rglob("*.png"):
        file.rename(file.with_name(f"another_{file.name}"))
    own = finished_data(begun, photos, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="no photo with a file name of the split"):
        read_also(own, other)


def test_a_photo_says_nothing_of_classes_that_its_data_set_lacks() -> None:
    experiment = tiny("label_smoothing = 0.1\n")
    network = training_copy(build_network(experiment, None), precision="float32")
    images = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
    labels, possible = np.asarray([0] * 6 + [1] * 2 + [2]), np.float32([[1, 1, 0]] * 8 + [[1, 1, 1]])
    photos = Labelled(images, np.arange(9), labels, possible)
    stage = loop._StageRun(network, experiment, State(stage=0), photos, photos)
    before = np.asarray(network.get_layer("logits").bias)
    loss, _ = stage._step(images[:8], labels[:8], possible[:8], np.int32([0, 0]), images[:8])
    changed = np.asarray(network.get_layer("logits").bias) != before
    assert changed.tolist() == [True, True, False]
    assert float(loss) < 10
    stage._step(images[1:], labels[1:], possible[1:], np.int32([0, 1]), images[1:])
    assert np.asarray(network.get_layer("logits").bias)[2] != before[2]


def test_photos_of_a_complete_set_are_of_no_class_that_their_folder_lacks() -> None:
    network = training_copy(build_network(tiny(), None), precision="float32")
    images, possible = np.zeros((3, 64, 64, 3), np.uint8), np.float32([[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    photos = Labelled(images, np.arange(3), np.asarray([2, 1, 0]), possible)
    for extra, expected in (("", 0), ("also_complete = true\n", 1)):
        stage = loop._StageRun(network, tiny(extra), State(stage=0), photos, photos)
        assert (stage._possible[1:, 2] == expected).all()
