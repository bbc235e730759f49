"""Training itself, on tiny data: resuming, what it changes, and which epoch it hands on."""

from pathlib import Path

import keras
import numpy as np
import pytest

from dermserve.models.training.errors import read_json
from dermserve.models.training.train import loop
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.finished import FinishedRun
from tests.training.runs import EXPERIMENT, StoppedError, start, tiny


@pytest.fixture(scope="module")
def whole(tiny_networks: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny network."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    start(tiny(), photos, out)
    return out


def _unchanged(experiment: Experiment, network: keras.Model) -> list[str]:
    """Name the weights that are as the run began with them."""
    keras.utils.set_random_seed(experiment.seed)
    pairs = zip(build_network(experiment, None).weights, network.weights, strict=True)
    return [old.path for old, new in pairs if np.array_equal(old, new)]


@pytest.mark.slow
def test_batch_norm_in_train_mode_learns_statistics_that_averages_keep(photos: Path, tmp_path: Path) -> None:
    """The one training of a real network: it comes first, before `tiny_networks` takes their place."""
    general, _, stages = EXPERIMENT.partition("[[stages]]")
    last = stages.rpartition("[[stages]]")[2].replace("epochs = 2", "epochs = 1")
    text = f'{general}[[stages]]{last}batch_norm = "train"\n'
    experiment = tiny(text=text)
    start(experiment, photos, tmp_path / "run")
    network = FinishedRun(tmp_path / "run").network()
    assert _unchanged(experiment, network) == []
    backbone = network.get_layer("backbone")
    norms = [layer for layer in backbone.layers if layer.__class__.__name__ == "BatchNormalization"]
    assert len(norms) > 20
    for norm in norms:
        assert np.asarray(norm.moving_mean).any()
        assert np.isfinite(np.asarray(norm.moving_variance)).all()


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        start(tiny(), photos, out, stop_after=2)
    start(tiny(), photos, out)
    expected, found = FinishedRun(whole).network().get_weights(), FinishedRun(out).network().get_weights()
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4)
    assert [epoch["epoch"] for epoch in read_json(out / "history.json", list)] == [1, 1, 2]


def test_training_changes_every_layer_but_frozen_batch_norm(whole: Path) -> None:
    assert {path.split("/")[-2] for path in _unchanged(tiny(), FinishedRun(whole).network())} == {"norm", "top_norm"}


def test_training_by_lamb_changes_every_layer(tiny_networks: None, photos: Path, tmp_path: Path) -> None:
    general, _, stages = EXPERIMENT.partition("[[stages]]")
    last = stages.rpartition("[[stages]]")[2]
    experiment = tiny(text=f'{general}[[stages]]{last}optimizer = "lamb"\nbatch_norm = "train"\n')
    start(experiment, photos, tmp_path / "run")
    assert _unchanged(experiment, FinishedRun(tmp_path / "run").network()) == []


@pytest.mark.parametrize(("monitor", "best"), [("loss", 2), ("accuracy", 3)])
def test_the_best_epoch_is_handed_on_and_training_ends_when_none_better_comes(
    tiny_networks: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str, best: int
) -> None:
    judged = iter([(1.0, 0.3, 0.0), (0.5, 0.4, 0.0), (0.8, 0.6, 0.0), (0.9, 0.5, 0.0), (0.9, 0.5, 0.0)])
    heads = []

    def judge(stage: loop._StageRun) -> dict[str, float]:
        heads.append(np.asarray(stage._network.get_layer("logits").kernel))
        return dict(zip(("loss", "accuracy", "balanced_accuracy"), next(judged), strict=True))

    monkeypatch.setattr(loop._StageRun, "_judge", judge)
    head, _, _ = EXPERIMENT.rpartition("[[stages]]")
    text = head.replace("epochs = 1", f'epochs = 9\nkeep = "best"\npatience = 2\nmonitor = "{monitor}"')
    start(tiny(text=text), photos, tmp_path / "run")
    assert len(heads) == best + 2
    np.testing.assert_array_equal(FinishedRun(tmp_path / "run").network().get_layer("logits").kernel, heads[best - 1])
