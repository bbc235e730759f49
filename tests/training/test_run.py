"""Whole runs on tiny data: resuming, evaluating, packing, reporting, exporting."""

import json
import pathlib
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dermserve.models.training import cli, loop, outputs
from dermserve.models.training.errors import RunError
from dermserve.models.training.experiment import Experiment, parse_experiment
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.loop import Epoch
from dermserve.models.training.run import prepare, run_training

from .conftest import draw

EXPERIMENT = """
model = "mobilenet_v3_small"
validation = 0.25
test = 0.25
balance = 0.5
fold_batch_norm = true
[augmentation]
rotation = 180.0
flip = true
[[stages]]
name = "head"
epochs = 1
trainable = "head"
rate = 1e-3
batch = 8
side = 64
[[stages]]
name = "all"
epochs = 2
batch = 8
side = 64
weight_decay = 0.01
average = 0.9
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    base = tmp_path_factory.mktemp("photos")
    for label, code in enumerate(("bcc", "scc", "normal")):
        for index in range(12):
            draw(base / code / f"{code}_{index:02}.png", label=label, seed=100 * label + index)
    return base


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return parse_experiment(EXPERIMENT, name="tiny")


class StoppedError(Exception):
    """Stands for Ctrl-C."""


def start(experiment: Experiment, photos: pathlib.Path, out: pathlib.Path, *, stop_after: int | None = None) -> None:
    """Train; raise in the middle of the epoch after `stop_after` whole ones."""
    whole = 0

    def report(_: Epoch) -> None:
        nonlocal whole
        whole += 1

    def progress(what: str, done: int, steps: int) -> None:
        if stop_after is not None and whole > stop_after - 1 and done > 1:
            raise StoppedError

    data = prepare(experiment, photos, cache=photos.parent / "cache")
    run_training(experiment, data, out, backbone=None, progress=progress, report=report)


@pytest.fixture(scope="module")
def whole(experiment: Experiment, photos: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    start(experiment, photos, out)
    return out


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    experiment: Experiment, photos: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        start(experiment, photos, out, stop_after=2)
    start(experiment, photos, out)
    expected, found = FinishedRun(whole).network().get_weights(), FinishedRun(out).network().get_weights()
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4)
    assert [epoch["epoch"] for epoch in FinishedRun(out).history] == [1, 1, 2]


def test_training_changes_every_layer(experiment: Experiment, photos: pathlib.Path, whole: pathlib.Path) -> None:
    import keras

    from dermserve.models.training.run import initial_network

    keras.utils.set_random_seed(experiment.seed)
    before = initial_network(experiment, None)
    after = FinishedRun(whole).network()
    for old, new in zip(before.weights, after.weights, strict=True):
        assert not np.array_equal(old, new), old.path


def test_batch_norm_in_train_mode_learns_statistics_that_the_averaged_weights_keep(
    photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    head, _, stage = EXPERIMENT.replace("fold_batch_norm = true\n", "").rpartition("[[stages]]")
    text = f'{head}[[stages]]{stage}batch_norm = "train"\noptimizer = "lamb"\n'
    start(parse_experiment(text, name="trained"), photos, tmp_path / "run")
    backbone = FinishedRun(tmp_path / "run").network().get_layer("backbone")
    norms = [layer for layer in backbone.layers if layer.__class__.__name__ == "BatchNormalization"]
    assert len(norms) > 20
    for norm in norms:
        assert np.asarray(norm.moving_mean).any()
        assert np.isfinite(np.asarray(norm.moving_variance)).all()


@pytest.mark.parametrize(("monitor", "best"), [("loss", 2), ("accuracy", 3)])
def test_the_best_epoch_is_handed_on_and_training_ends_when_none_better_comes(
    photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, monitor: str, best: int
) -> None:
    judged = iter([(1.0, 0.3, 0.0), (0.5, 0.4, 0.0), (0.8, 0.6, 0.0), (0.9, 0.5, 0.0), (0.9, 0.5, 0.0)])
    heads = []

    def judge(stage: loop._StageRun) -> tuple[float, float, float]:
        heads.append(np.asarray(stage._network.get_layer("logits").kernel))
        return next(judged)

    monkeypatch.setattr(loop._StageRun, "_judge", judge)
    head, _, _ = EXPERIMENT.rpartition("[[stages]]")
    text = head.replace("epochs = 1", f'epochs = 9\nkeep = "best"\npatience = 2\nmonitor = "{monitor}"')
    start(parse_experiment(text, name="short"), photos, tmp_path / "run")
    assert len(heads) == best + 2
    np.testing.assert_array_equal(FinishedRun(tmp_path / "run").network().get_layer("logits").kernel, heads[best - 1])


def test_a_finished_run_is_not_overwritten(experiment: Experiment, photos: pathlib.Path, whole: pathlib.Path) -> None:
    with pytest.raises(RunError, match="holds a finished run"):
        start(experiment, photos, whole)


def test_a_checkpoint_of_another_experiment_is_refused(
    experiment: Experiment, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(StoppedError):
        start(experiment, photos, tmp_path, stop_after=1)
    other = parse_experiment("seed = 5\n" + EXPERIMENT, name="tiny")
    with pytest.raises(RunError, match="of another experiment"):
        start(other, photos, tmp_path)


def test_a_folder_without_a_finished_run_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match=r"lacks experiment\.json"):
        FinishedRun(tmp_path)


@pytest.fixture(scope="module")
def evaluated(whole: pathlib.Path, photos: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the run, packed and evaluated by the commands."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(whole, out)
    options = ["--data", str(photos), "--cache", str(photos.parent / "cache")]
    for command, extra in ((cli.pack, ["--kind", "float16"]), (cli.evaluate, ["--thin", "2"])):
        result = CliRunner().invoke(command, [str(out), *options, *extra])
        assert result.exit_code == 0, result.output
    return out


def test_evaluation_calibrates_and_measures(evaluated: pathlib.Path) -> None:
    run = FinishedRun(evaluated)
    assert set(run.calibration) == {
        "temperature", "rule_out", "rule_in", "min_confidence", "max_view_std", "adaptive_margin", "adaptive_looks",
        "max_ood_score", "quality", "method",
    }  # fmt: skip
    test = run.summary["metrics"]["test"]
    assert (test["single"]["photos"], test["tta"]["photos"]) == (9, 5)
    assert 0 <= run.summary["metrics"]["strangers"]["page of text"]["rejected"] <= 1
    assert run.summary["metrics"]["spoiled"]["black"] == 1
    assert run.calibration["rule_out"]["threshold"] <= run.calibration["rule_in"]["threshold"]
    assert test["adaptive"]["agreement"] >= 0
    low, high = test["tta"]["accuracy_95"]
    assert low <= test["tta"]["accuracy"] <= high


def test_what_the_network_said_is_remembered(
    evaluated: pathlib.Path, photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the network was run again")

    monkeypatch.setattr(outputs, "run_views", fail)
    options = ["--data", str(photos), "--cache", str(photos.parent / "cache")]
    result = CliRunner().invoke(cli.evaluate, [str(run), *options, "--thin", "2"])
    assert result.exit_code == 0, result.output
    assert FinishedRun(run).summary["metrics"] == FinishedRun(evaluated).summary["metrics"]
    result = CliRunner().invoke(cli.evaluate, [str(run), *options, "--thin", "1"])
    assert isinstance(result.exception, AssertionError)  # photos it has not seen ten views of


def test_packing_keeps_the_answers(evaluated: pathlib.Path) -> None:
    packed = FinishedRun(evaluated).summary["packed"]
    assert packed["bytes"] == (evaluated / "weights.npz").stat().st_size
    assert packed["agreement"] >= 8 / 9


class _Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources += [value for name, value in attrs if name == "src" and value]


def test_the_report_has_its_figures_and_numbers(evaluated: pathlib.Path) -> None:
    report = evaluated / "report"
    images = _Images()
    images.feed((report / "index.html").read_text())
    assert sorted(images.sources) == [
        "abstention.png", "confusion.png", "curves.png", "malignancy.png", "reliability.png", "roc.png",
    ]  # fmt: skip
    for name in images.sources:
        with Image.open(report / name) as image:
            assert min(image.size) > 300
    numbers = json.loads((report / "report.json").read_text())
    assert (
        numbers["metrics"]["test"]["tta"]["accuracy"]
        == FinishedRun(evaluated).summary["metrics"]["test"]["tta"]["accuracy"]
    )


def test_other_data_is_measured_without_what_was_trained_on(
    evaluated: pathlib.Path, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    draw(other / "bcc" / "new.png", label=0, seed=77)
    options = ["--data", str(other), "--cache", str(tmp_path / "cache"), "--other", "clinic"]
    result = CliRunner().invoke(cli.evaluate, [str(evaluated), *options])
    assert result.exit_code == 0, result.output
    assert FinishedRun(evaluated).summary["other"]["clinic"]["single"]["photos"] == 9 + 1


def test_the_report_is_written_again_beside_another_run(
    evaluated: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    shutil.rmtree(run / "report")
    result = CliRunner().invoke(cli.report, [str(run), "--paper", str(evaluated)])
    assert result.exit_code == 0, result.output
    assert "random by image (the paper&#x27;s protocol), one view" in (run / "report" / "index.html").read_text()
    result = CliRunner().invoke(cli.report, [str(whole)])
    assert result.exit_code == 1
    assert "lacks figures.npz" in result.output


def test_an_evaluated_run_is_exported_with_its_calibration(evaluated: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from dermserve.models.training.content import run_content
    from dermserve.models.version import write_version

    content = run_content(evaluated)
    assert content.calibration is not None
    assert content.calibration.temperature == FinishedRun(evaluated).calibration["temperature"]
    assert content.profile is not None
    assert content.profile.photos > 0
    assert 0 < content.profile.brightness.edges[0] < content.profile.brightness.edges[-1] < 255
    assert write_version(content, tmp_path) == 1


def test_an_intended_error_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cats").mkdir()
    result = CliRunner().invoke(
        cli.train, ["resnet50", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "no layout dermserve knows" in result.output
    assert not (tmp_path / "out").exists()


def test_exporting_a_run_needs_nothing_that_only_training_needs() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('sklearn', 'scipy', 'matplotlib')))"
    code = f"{absent}; import dermserve.models.training.content"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
