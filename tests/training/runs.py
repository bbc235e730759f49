"""Runs for tests: a tiny data set, a tiny experiment, and a run that is finished without having trained."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dermserve.models.training.train import loop, run
from dermserve.models.training.train.checkpoint import Epoch
from dermserve.models.training.train.dataset import prepare
from dermserve.models.training.train.experiment import Experiment, parse_experiment
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.run import run_training

EXPERIMENT = """
model = "mobilenet_v3_small"
validation = 0.25
test = 0.25
balance = 0.5
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
EPOCH = Epoch(
    stage="head",
    epoch=1,
    rate=1e-3,
    loss=1.0,
    accuracy=0.5,
    validation_loss=1.0,
    validation_accuracy=0.5,
    validation_balanced_accuracy=0.5,
    seconds=1.0,
)


def command(what: click.Command, *arguments: object, code: int = 0) -> str:
    """Run a command and return what it says."""
    result = CliRunner().invoke(what, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


class StoppedError(Exception):
    """Stands for Ctrl-C."""


def tiny(extra: str = "", text: str = EXPERIMENT) -> Experiment:
    """Parse the tiny experiment, with fields before it."""
    return parse_experiment(extra + text, name="tiny")


def start(
    experiment: Experiment, photos: Path, out: Path, *, stop_after: int | None = None, backbone: Path | None = None,
    teachers: Sequence[FinishedRun] = (),
) -> None:  # fmt: skip
    """Train; raise in the middle of the epoch after `stop_after` whole ones."""
    begun: list[str] = []

    def stop(steps: Sequence[int], what: str) -> Iterator[int]:
        begun.append(what)
        for step in steps:
            yield step
            if stop_after is not None and len(begun) > stop_after and step == 1:
                raise StoppedError

    data = prepare(experiment, photos, cache=photos.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "track", stop)
        run_training(experiment, data, out, backbone=backbone, teachers=teachers)


def instead_of_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None] = lambda: None) -> None:
    """Let runs do everything but train, and measure no batch norm: `act` is called where epochs would be."""

    def skip(*_: object, **__: object) -> list[Epoch]:
        act()
        return [EPOCH]

    monkeypatch.setattr(run, "train", skip)
    monkeypatch.setattr(run, "estimate_batch_norm", lambda *_: None)


def untrained(experiment: Experiment, photos: Path, out: Path) -> FinishedRun:
    """Make a finished run whose weights are those it began with."""
    with pytest.MonkeyPatch.context() as patch:
        instead_of_training(patch)
        start(experiment, photos, out)
    return FinishedRun(out)
