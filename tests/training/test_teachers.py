"""Distillation: what a student learns of its teachers, which teachers are refused, and that none is exported."""

import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dermserve.models.exporter import export
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.training import cli
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.errors import RunError
from dermserve.models.training.train import backbones, loop
from dermserve.models.training.train.backbones import build_network, load_backbone
from dermserve.models.training.train.checkpoint import State
from dermserve.models.training.train.experiment import Distillation
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.loop import distillation_losses, soft_targets
from tests.tiny import tiny_backbone
from tests.training.runs import EXPERIMENT, command, instead_of_training, start, tiny, untrained

LITE = 'teacher = "efficientnet_lite0"\n'


@pytest.fixture
def teacher(
    tiny_networks: None, photos: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> FinishedRun:
    """A teacher that has learned nothing, of a tiny network."""
    monkeypatch.setattr(backbones, "_efficientnet_lite", tiny_backbone)
    return untrained(tiny(LITE), photos, tmp_path_factory.mktemp("runs") / "teacher")


def _copy(run: FinishedRun, folder: Path, *, file: str = "run.json", old: str = "", new: str = "") -> FinishedRun:
    """Copy a run, with other words in one of its files."""
    shutil.copytree(run.folder, folder)
    (folder / file).write_text((folder / file).read_text().replace(old, new))
    return FinishedRun(folder)


def small_network(bias: tuple[float, ...] = (0.0, 0.0, 0.0)) -> keras.Model:
    """Make a network of one colour-blind layer that answers its bias at first."""
    images = keras.Input((None, None, 3))
    x = keras.Sequential([keras.layers.Rescaling(1 / 255)], name="backbone")(images)
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = keras.layers.Dense(
        3, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(list(bias)), name="logits"
    )(features)
    return keras.Model(images, {"logits": logits, "features": features})


@pytest.mark.parametrize(("weight", "learned"), [(1.0, 1), (0.0, 2)])
def test_a_student_learns_of_its_teachers_as_much_as_the_weight_says(weight: float, learned: int) -> None:
    text = EXPERIMENT.replace("rate = 1e-3", "rate = 0.1").replace("epochs = 1", "epochs = 2")
    experiment = tiny("", text + f"[distillation]\nweight = {weight}\n")
    images = np.random.default_rng(0).integers(0, 255, (64, 72, 72, 3), np.uint8)
    labelled = Labelled(images, np.arange(64), np.full(64, 2))  # the labels say 2, the teachers 1
    student, teachers = small_network(), [small_network((0, 9, 0)), small_network((2, 5, 0))]
    loop._StageRun(student, experiment, State(stage=0), labelled, labelled, teachers).epoch()
    answers = np.asarray(student(images[:4].astype(np.float32))["logits"]).argmax(axis=1)
    assert (answers == learned).all()


def test_teachers_see_the_crop_that_the_student_sees() -> None:
    seen = list[tuple[int, ...]]()

    def teacher(photos: Any, *, training: bool) -> dict[str, Any]:
        seen.append((*photos.shape[1:], training))
        return {"logits": tf.zeros((tf.shape(photos)[0], 3))}

    images = np.zeros((8, 72, 72, 3), np.uint8)
    labelled = Labelled(images, np.arange(8), np.arange(8) % 3)
    loop._StageRun(small_network(), tiny(), State(stage=0), labelled, labelled, [teacher]).epoch()
    assert set(seen) == {(64, 64, 3, False)}


def test_the_soft_targets_are_the_mean_of_tempered_probabilities_without_impossible_classes() -> None:
    photos, away = tf.zeros((1, 8, 8, 3)), tf.constant([[0.0, 0.0, -1e4]])
    teachers = [small_network((2, 0, 9)), small_network((0, 4, 9))]
    found = soft_targets(teachers, photos, away, 2.0)[0]
    first, second = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))
    np.testing.assert_allclose(found, [(first + second) / 2, 1 - (first + second) / 2, 0], atol=1e-6)


def test_the_loss_by_teachers_is_least_where_the_student_agrees_and_its_gradient_keeps_its_size() -> None:
    teacher, student = tf.constant([[3.0, -1.0, 0.5]]), tf.constant([[0.3, 0.1, 0.0]])
    target = tf.constant([[0.0, 0.0, 1.0]])

    def gradient(logits: Any, temperature: float) -> Any:
        settings = Distillation(temperature=temperature, weight=1)
        soft = tf.nn.softmax(teacher / temperature)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            own = tf.nn.softmax_cross_entropy_with_logits(target, logits)
            loss = distillation_losses(own, soft, logits, settings)
        return tape.gradient(loss, logits).numpy()

    for temperature in (1.0, 4.0):
        assert np.abs(gradient(teacher, temperature)).max() < 1e-5
    # High temperatures match logits, both centred (Hinton et al. 2015, section 2.1).
    off = (student - tf.reduce_mean(student)) - (teacher - tf.reduce_mean(teacher))
    np.testing.assert_allclose(gradient(student, 1000.0), off / 3, rtol=0.01)


def test_a_distilled_run_names_its_teachers_and_goes_on_with_no_others(
    teacher: FinishedRun, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_training(monkeypatch)
    second = _copy(teacher, tmp_path / "second")
    start(tiny(), photos, tmp_path / "out", teachers=[teacher, second])
    described = FinishedRun(tmp_path / "out").summary["initialization"]
    named = r"distilled from teacher \(efficientnet_lite0\), SHA-256 [0-9a-f]{16}; distilled from second \(eff"
    assert re.search(named, described), described
    (tmp_path / "out" / "weights.npz").unlink()
    for teachers in ([], [teacher]):
        with pytest.raises(RunError, match="another teachers"):
            start(tiny(), photos, tmp_path / "out", teachers=teachers)


def test_a_teacher_that_knows_what_validates_or_tests_is_refused_before_anything_is_written(
    teacher: FinishedRun, photos: Path, tmp_path: Path
) -> None:
    leaky = _copy(teacher, tmp_path / "leaky", file="split.csv", old=",test,", new=",train,")
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    options = ["--data", photos, "--experiment", tmp_path / "tiny.toml", "--cache", photos.parent / "cache"]
    options += ["--out", tmp_path / "out", "--teacher", leaky.folder]
    assert "that validate or test here" in command(cli.train, "mobilenet_v3_small", *options, code=1)
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_not_continued_as_a_model(teacher: FinishedRun, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    options = ["--data", photos, "--experiment", tmp_path / "tiny.toml", "--cache", photos.parent / "cache"]
    options += ["--out", tmp_path / "out", "--start", teacher.folder]
    said = command(cli.train, "mobilenet_v3_small", *options, code=2)
    assert "teacher is a run of efficientnet_lite0, not mobilenet_v3_small" in said
    assert not (tmp_path / "out").exists()


def test_an_experiment_of_distillation_without_a_teacher_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(f"{EXPERIMENT}[distillation]\n")
    options = ["--data", photos, "--experiment", tmp_path / "tiny.toml", "--cache", photos.parent / "cache"]
    said = command(cli.train, "mobilenet_v3_small", *options, "--out", tmp_path / "out", code=2)
    assert "tiny has [distillation]: pass its teachers with --teacher" in said
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_other_classes_is_refused(teacher: FinishedRun, photos: Path, tmp_path: Path) -> None:
    other = _copy(teacher, tmp_path / "o", file="experiment.json", old="mobilenet_v3_small", new="resnet50")
    with pytest.raises(RunError, match="can't teach mobilenet_v3_small"):
        start(tiny(), photos, tmp_path / "out", teachers=[other])


def test_a_teacher_is_never_exported(teacher: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(
        LifecycleError, match=r"^\S+ holds a teacher \(efficientnet_lite0\), which is never exported[^\n]+$"
    ):
        export(teacher.folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_keras_has_no_weights_of_a_teacher() -> None:
    with pytest.raises(RunError, match=r"pass their \.npz"):
        build_network(tiny(LITE), "imagenet")


def test_a_teachers_arrays_reach_the_layers_of_their_names(tmp_path: Path) -> None:
    network = build_network(tiny(LITE))
    backbone = network.get_layer("backbone")
    # 4,652,008 parameters in the paper's table, of which the ImageNet head has 1,281,000.
    assert sum(int(np.prod(weight.shape)) for weight in backbone.trainable_weights) == 4_652_008 - 1_281_000
    arrays = _torch_style(backbone)
    np.savez(tmp_path / "lite.npz", **arrays)
    load_backbone(network, tmp_path / "lite.npz")
    kernel = np.asarray(backbone.get_layer("_blocks.4._depthwise_conv").kernel)
    assert kernel[1, 3, 7, 0] == arrays["_blocks.4._depthwise_conv.weight"][7, 0, 1, 3]
    kernel = np.asarray(backbone.get_layer("_conv_stem").kernel)
    assert kernel[0, 2, 1, 5] == arrays["_conv_stem.weight"][5, 1, 0, 2]
    assert np.asarray(backbone.get_layer("_bn1").moving_variance)[3] == arrays["_bn1.running_var"][3]
    del arrays["_blocks.15._bn2.bias"]
    np.savez(tmp_path / "lacking.npz", **arrays)
    with pytest.raises(RunError, match=re.escape("_blocks.15._bn2.bias")):
        load_backbone(network, tmp_path / "lacking.npz")


def _torch_style(backbone: keras.Model) -> dict[str, np.ndarray]:
    """Draw arrays of the shapes and names that torch would save."""
    rng, arrays = np.random.default_rng(0), dict[str, np.ndarray]()
    for layer in (layer for layer in backbone.layers if layer.weights):
        shape = layer.get_weights()[0].shape
        if len(shape) == 1:
            for part in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{layer.name}.{part}"] = rng.random(shape, np.float32)
            continue
        height, width, first, second = shape
        out = (first, second) if "depthwise" in layer.name else (second, first)
        arrays[f"{layer.name}.weight"] = rng.random((*out, height, width), np.float32)
    return arrays
