"""What follows training, on tiny data: evaluating, packing, reporting, exporting."""

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dermserve.models.exporter import run_content, write_version
from dermserve.models.training import cli
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.errors import RunError, TrainingError, locked
from dermserve.models.training.evaluate import calibration, evaluation, measuring, predictions
from dermserve.models.training.evaluate.pictures import draw_no_skin
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.finished import FinishedRun
from tests.training.conftest import draw
from tests.training.runs import EXPERIMENT, StoppedError, command, tiny, untrained


@pytest.fixture(scope="module", autouse=True)
def few_pictures_without_skin() -> Iterator[None]:
    """Draw four pictures a kind without skin, not twenty: the network sees each of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (measuring, calibration):
            patch.setattr(module, "draw_no_skin", functools.partial(draw_no_skin, each=4))
        yield


@pytest.fixture(scope="module")
def whole(tiny_networks: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose weights are those it began with: what follows training does not ask how they came about."""
    return untrained(tiny(), photos, tmp_path_factory.mktemp("runs") / "whole").folder


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    names = ("experiment.json", "split.csv", "run.json", "history.json", "weights.npz")
    for name in names:
        with pytest.raises(RunError, match=f"lacks {re.escape(name)}"):  # history.json: of the report, after hours
            FinishedRun(tmp_path)
        (tmp_path / name).write_text("{}")
    FinishedRun(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", ""),
        ("run.json", '{"model": "res'),
        ("run.json", "null"),
        ("run.json", "5"),
        ("experiment.json", "5"),
        ("history.json", "5"),
        ("fingerprint.json", "[]"),
        ("experiment.json", "[]"),
        ("experiment.json", "\udcff"),
        ("split.csv", "photo,lesion_id\n"),
        ("split.csv", "photo,lesion_id,part,sha256\na.png,L,both,0\n"),
        ("split.csv", "photo,lesion_id,part,sha256\na.png"),
        ("distance.npz", "PK"),
        ("distance.npz", ""),
        ("distance.npz", "\x93NUMPY"),
        ("split.csv", 'photo,lesion_id,part,sha256\n"' + "x" * 200_000),
        ("weights.npz", "PK"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(whole: Path, tmp_path: Path, file: str, text: str) -> None:
    run = FinishedRun(Path(shutil.copytree(whole, tmp_path / "run")))
    (run.folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    read: dict[str, Callable[[], object]] = {
        "run.json": lambda: run.summary,
        "experiment.json": lambda: run.experiment,
        "split.csv": lambda: run.split,
        "distance.npz": lambda: run.distance,
        "weights.npz": run.network,
        "history.json": lambda: evaluation._draw_history(tmp_path / "curves.png", run),
        "fingerprint.json": lambda: checkpoint.claimed(run.folder, {}).__enter__(),
    }
    with pytest.raises(TrainingError, match=rf"run(/{file})?\b"):
        read[file]()


@pytest.mark.parametrize("what", [cli.evaluate, cli.pack, cli.tflite])
def test_a_run_that_another_command_works_on_is_left_alone(whole: Path, photos: Path, what: click.Command) -> None:
    """An evaluation would fit its thresholds to weights that `pack` has replaced."""
    with locked(whole):
        assert "is in use by another command" in command(what, whole, "--data", photos, code=1)


@pytest.mark.parametrize("text", ["", "[1]", "null", '[{"epoch": 1}]'])
def test_a_damaged_history_is_named_before_the_work(whole: Path, photos: Path, tmp_path: Path, text: str) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "history.json").write_text(text)
    said = command(cli.evaluate, run, "--data", photos, "--cache", tmp_path / "cache", code=1)
    assert re.search(r"history\.json (is damaged|can't be read)", said), said
    assert not (tmp_path / "cache").exists()


def test_a_run_without_test_photos_is_not_evaluated(photos: Path, tmp_path: Path) -> None:
    experiment = tiny(text=EXPERIMENT.replace("test = 0.25", "test = 0.0"))
    run = untrained(experiment, photos, tmp_path / "run")
    said = command(cli.evaluate, run.folder, "--data", photos, "--cache", photos.parent / "cache", code=1)
    assert "has no test photos" in said
    assert "tested" not in run.summary


@pytest.fixture(scope="module")
def evaluated(whole: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, packed and evaluated by the commands."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(whole, out)
    options = ["--data", str(photos), "--cache", str(photos.parent / "cache")]
    FinishedRun(out).update(calibration={"temperature": 1.0})
    command(cli.pack, out, *options)
    with pytest.raises(RunError, match="is not calibrated"):  # other weights than those it was fitted to
        run_content(out)
    command(cli.evaluate, out, *options, "--thin", 2)
    return out


@pytest.mark.slow
def test_evaluation_calibrates_and_measures(evaluated: Path) -> None:
    run = FinishedRun(evaluated)
    assert set(run.calibration) == {
        "temperature", "rule_out", "rule_in", "min_confidence", "max_view_std", "adaptive_margin", "adaptive_looks",
        "max_ood_score", "quality", "method",
    }  # fmt: skip
    test = run.summary["metrics"]["test"]
    assert (test["single"]["photos"], test["tta"]["photos"]) == (9, 5)
    assert 0 <= run.summary["metrics"]["strangers"]["page of text"]["rejected"] <= 1
    spoiled = run.summary["metrics"]["spoiled"]
    assert spoiled["validation"]["black"]["noticed"] == spoiled["test"]["black"]["noticed"] == 1
    assert max(0.5, run.calibration["rule_out"]["threshold"]) <= run.calibration["rule_in"]["threshold"]
    assert test["adaptive"]["agreement"] >= 0
    low, high = test["tta"]["accuracy_95"]
    assert low <= test["tta"]["accuracy"] <= high


@pytest.mark.slow
def test_what_was_said_is_remembered(
    evaluated: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the network was run again")

    monkeypatch.setattr(predictions, "run_views", fail)
    options = ["--data", str(photos), "--cache", str(photos.parent / "cache")]
    command(cli.evaluate, run, *options, "--thin", 2)
    assert FinishedRun(run).summary["metrics"] == FinishedRun(evaluated).summary["metrics"]
    result = CliRunner().invoke(cli.evaluate, [str(run), *options, "--thin", "1"])
    assert isinstance(result.exception, AssertionError)  # photos it has not seen ten views of


@pytest.mark.slow
def test_an_interrupted_evaluation_leaves_no_calibration_beside_another_score(
    evaluated: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(evaluated, tmp_path / "run"))

    def stop(*_: object, **__: object) -> None:
        raise StoppedError

    monkeypatch.setattr(measuring, "measure_profile", stop)
    options = ["--data", str(photos), "--cache", str(photos.parent / "cache"), "--thin", "2"]
    assert isinstance(CliRunner().invoke(cli.evaluate, [str(run), *options]).exception, StoppedError)
    with pytest.raises(RunError, match="is not calibrated"):
        run_content(run)


@pytest.mark.slow
def test_packing_keeps_the_answers(evaluated: Path) -> None:
    packed = FinishedRun(evaluated).summary["packed"]
    assert packed["bytes"] == (evaluated / "weights.npz").stat().st_size
    assert packed["agreement"] >= 8 / 9


@pytest.mark.slow
def test_spoiled_photos_of_which_none_is_malignant_are_measured(evaluated: Path, tmp_path: Path) -> None:
    run = FinishedRun(evaluated)
    fitted = calibration.Fitted(run.model, run.shift, run.distance, run.calibration)
    predictor = predictions.Predictor(network=run.network(shifted=False), cache=tmp_path / "cache")
    skin = Labelled.whole(np.full((2, 224, 224, 3), 180, np.uint8), np.full(2, 2))
    found = measuring.spoiled(predictor, fitted, skin)
    assert found["black"] == {"noticed": 1.0, "malignant_low": None}


@pytest.mark.slow
def test_the_report_has_its_figures_and_numbers(evaluated: Path) -> None:
    report = evaluated / "report"
    images = re.findall(r'<img[^>]* src="([^"]+)"', (report / "index.html").read_text())
    assert sorted(images) == [
        "abstention.png", "confusion.png", "curves.png", "malignancy.png", "reliability.png", "roc.png",
    ]  # fmt: skip
    for name in images:
        with Image.open(report / name) as image:
            assert min(image.size) > 300
    assert re.search(r"<td>black</td><td>1\.00</td><td>[01]\.\d{3}</td>", (report / "index.html").read_text())
    found = FinishedRun(evaluated).summary["metrics"]["test"]["tta"]
    assert f"grouped by lesion, ten views</td><td>{found['accuracy']:.4f} (" in (report / "index.html").read_text()


@pytest.mark.slow
def test_other_data_is_measured_without_what_was_trained_on(evaluated: Path, photos: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    draw(other / "bcc" / "new.png", label=0, seed=77)
    said = command(cli.evaluate, evaluated, "--data", other, "--cache", tmp_path / "cache", "--other", "clinic")
    assert "left out 27 of 37 photos: their lesions, bytes or file names trained or validated the run" in said
    assert FinishedRun(evaluated).summary["other"]["clinic"]["single"]["photos"] == 9 + 1


@pytest.mark.slow
def test_a_report_shows_another_run_that_was_evaluated(
    evaluated: Path, whole: Path, photos: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(evaluated, tmp_path / "run"))
    options = ["--data", photos, "--cache", photos.parent / "cache", "--thin", 2]
    by_lesion = "is no run of mobilenet_v3_small that was split by image"
    assert by_lesion in command(cli.evaluate, run, *options, "--paper", evaluated, code=1)
    by_image = [Path(shutil.copytree(one, tmp_path / f"{one.name} by image")) for one in (whole, evaluated)]
    for copy in by_image:
        fields = json.loads((copy / "experiment.json").read_text())
        (copy / "experiment.json").write_text(json.dumps(fields | {"protocol": "image"}))
    assert "by image is not calibrated" in command(cli.evaluate, run, *options, "--paper", by_image[0], code=1)
    command(cli.evaluate, run, *options, "--paper", by_image[1])
    assert "random by image (the paper&#39;s protocol), one view" in (run / "report" / "index.html").read_text()


@pytest.mark.slow
def test_an_evaluated_run_is_exported_with_its_calibration(evaluated: Path, tmp_path: Path) -> None:
    content = run_content(evaluated)
    assert content.calibration is not None
    assert content.calibration.temperature == FinishedRun(evaluated).calibration["temperature"]
    assert content.profile is not None
    assert content.profile.photos > 0
    assert 0 < content.profile.brightness.edges[0] < content.profile.brightness.edges[-1] < 255
    assert write_version(content, tmp_path)["to"] == 1
