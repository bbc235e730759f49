"""Experiment files."""

from pathlib import Path

import pytest

from dermserve.models.training.errors import ExperimentError
from dermserve.models.training.train.experiment import FOLDER, load_experiment, parse_experiment

MINIMAL = 'model = "resnet50"\n[[stages]]\nname = "head"\nepochs = 1\n'


@pytest.mark.parametrize("name", [file.name.removesuffix(".toml") for file in FOLDER.iterdir()])
def test_every_packaged_experiment_loads(name: str) -> None:
    assert load_experiment(name).name == name


def test_the_papers_settings_are_the_default_experiments() -> None:
    resnet50 = load_experiment("resnet50")
    (stage,) = resnet50.stages
    assert (resnet50.dropout, resnet50.l2, stage.rate, stage.batch, stage.epochs) == (0.4, 0.01, 1e-4, 64, 20)
    assert (resnet50.validation, resnet50.test) == (0.15, 0.15)
    first, second = load_experiment("mobilenet_v3_small").stages
    assert (first.epochs, first.trainable, second.epochs, second.trainable) == (15, "head", 25, "top:60")
    assert second.rate < first.rate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "epoch = 2\n", "stages.0.epoch is 2: Unexpected keyword argument"),
        (MINIMAL + "epochs_ = 2\n", "stages.0.epochs_ is 2: Unexpected keyword argument"),
        (MINIMAL.replace("epochs = 1", 'epochs = "1"'), "stages.0.epochs is '1': Input should be a valid integer"),
        (
            MINIMAL.replace("resnet50", "resnet18"),
            r"model is 'resnet18': Input should be 'resnet50' or 'mobilenet_v3_small'",
        ),
        ('model = "resnet50"\nstages = []\n', "at least 1 item"),
        ('model = "resnet50"\n', "test.stages: Field required"),
        ("validation = 0.9\ntest = 0.2\n" + MINIMAL, "leave photos to train on"),
        ('protocol = "patient"\n' + MINIMAL, "protocol is 'patient': Input should be 'lesion' or 'image'"),
        ("nonsense", "is not TOML"),
        ("", "test.model: Field required"),
        (MINIMAL + "zoom = [1.0]\n", "stages.0.zoom.1: Field required"),
        (MINIMAL + "zoom = [0.0, 1.0]\n", "stages.0.zoom.0 is 0.0: Input should be greater than 0"),
        (MINIMAL + "rate = nan\n", "stages.0.rate is nan: Input should be a finite number"),
        (MINIMAL + "rate = -1.0\n", "stages.0.rate is -1.0"),
        (MINIMAL + "rate = true\n", "stages.0.rate is True: Input should be a valid number"),
        (MINIMAL + 'optimizer = "sgd"\n', "optimizer is 'sgd': Input should be 'adamw' or 'lamb'"),
        (MINIMAL + "patience = 0\n", "stages.0.patience is 0"),
        (MINIMAL + "[augmentation]\nrotate = 3.0\n", "augmentation.rotate is 3.0: Unexpected keyword argument"),
        ("dropout = 1.0\n" + MINIMAL, "dropout is 1.0: Input should be less than 1"),
        ("seed = 2020-01-01\n" + MINIMAL, "seed is '2020-01-01': Input should be a valid integer"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        parse_experiment(text, name="test")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ExperimentError, match="resnet50_shipped"):
        load_experiment("vgg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"absent\.toml can't be read"):
        load_experiment(tmp_path / "absent.toml")


def test_a_file_of_a_windows_editor_is_read_and_one_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_experiment(file).name == "mine"
    file.write_text(f"# Rücken\n{MINIMAL}", encoding="utf-16")
    with pytest.raises(ExperimentError, match=r"mine\.toml can't be read"):
        load_experiment(file)
