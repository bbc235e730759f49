"""Training copies, initial weights, augmentation and compact weights, on the real architectures."""

import contextlib
import functools
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from dermserve.models.architectures import build
from dermserve.models.training.conversion import convert
from dermserve.models.training.errors import ExperimentError, RunError
from dermserve.models.training.evaluate.evaluation import _axes
from dermserve.models.training.train.augment import augment
from dermserve.models.training.train.backbones import load_backbone
from dermserve.models.training.train.experiment import Augmentation
from dermserve.models.training.train.finished import Kind, load_weights, quantize, save_weights
from dermserve.models.training.train.network import (
    FusedBatchNormalization,
    estimate_batch_norm,
    select_trainable,
    training_copy,
)
from tests.tiny import tiny_network

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
MEAN, DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    """Random weights, with batch norm that does something."""
    keras.utils.set_random_seed(1)
    network = build("mobilenet_v3_small")
    rng = np.random.default_rng(1)
    for layer in network.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def another() -> keras.Model:
    return build("mobilenet_v3_small")


@pytest.fixture
def blank(another: keras.Model) -> keras.Model:
    """The same network, all of whose weights are zero."""
    another.set_weights([np.zeros(weight.shape, np.float32) for weight in another.weights])
    return another


@contextlib.contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Let writes to files fail as on a full disk once a file has this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def logits(network: keras.Model) -> np.ndarray:
    return np.asarray(network(PIXELS.astype(np.float32), training=False)["logits"])


def test_a_copy_computes_the_same_and_gives_back_what_it_was_given(mobilenet: keras.Model, blank: keras.Model) -> None:
    before = logits(mobilenet)
    copy = training_copy(mobilenet, precision="float32")
    np.testing.assert_allclose(logits(copy), before, atol=1e-4)
    blank.set_weights(copy.get_weights())
    np.testing.assert_allclose(logits(blank), before, atol=1e-4)


def test_a_copy_takes_crops_of_another_side_and_answers_in_float32(mobilenet: keras.Model) -> None:
    copy = training_copy(mobilenet, precision="mixed_bfloat16")
    answer = copy(PIXELS[:, :96, :96].astype(np.float32), training=True)
    assert answer["logits"].shape == (2, 3)
    assert answer["logits"].dtype == "float32"
    assert all(variable.dtype == "float32" for variable in copy.trainable_variables)


def test_estimated_batch_norm_answers_as_before_and_about_the_same_in_training_mode() -> None:
    keras.utils.set_random_seed(2)
    network, pixels = build("mobilenet_v3_small"), PIXELS.astype(np.float32)
    before, backbone = logits(network), network.get_layer("backbone")
    estimate_batch_norm(network, PIXELS)
    np.testing.assert_allclose(logits(network), before, atol=1e-4)
    first = keras.Model(backbone.input, backbone.layers[4].output)
    np.testing.assert_allclose(first(pixels, training=True), first(pixels, training=False), atol=1e-3)
    norm = next(x for x in backbone.layers if isinstance(x, keras.layers.BatchNormalization))
    assert not np.allclose(norm.moving_mean, 0)


@pytest.fixture(scope="module")
def copy(mobilenet: keras.Model) -> keras.Model:
    return training_copy(mobilenet, precision="float32")


@pytest.mark.parametrize(
    ("trainable", "count"), [("head", 0), ("all", None), ("top:5", 5), ("from:expanded_conv_10", None)]
)
def test_stages_choose_their_layers(copy: keras.Model, trainable: str, count: int | None) -> None:
    select_trainable(copy, trainable, batch_norm="train")
    chosen = [layer.trainable for layer in copy.get_layer("backbone").layers]
    assert copy.get_layer("logits").trainable
    assert count is None or sum(chosen) == count
    assert chosen == sorted(chosen)  # once trainable, trainable to the top
    assert trainable == "head" or any(chosen)


@pytest.mark.parametrize("trainable", ["none", "top:x", "from:absent", "all:1"])
def test_a_choice_of_layers_that_is_none_is_refused(mobilenet: keras.Model, trainable: str) -> None:
    with pytest.raises(ExperimentError, match=trainable):
        select_trainable(mobilenet, trainable, batch_norm="frozen")


def folded_resnet50(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make random arrays of the folded torch layout, of a size that keeps activations alive."""
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, out: int, inner: int, side: int) -> None:
        arrays[f"{name}.weight"] = rng.normal(0, (1 / (inner * side**2)) ** 0.5, (out, inner, side, side))
        arrays[f"{name}.bias"] = rng.normal(0, 0.1, out)

    add("1.conv1", 64, 3, 7)
    inner = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        add(f"1.layer{stage}.0.downsample.0", 4 * width, inner, 1)
        for block in range(blocks):
            add(f"1.layer{stage}.{block}.conv1", width, inner, 1)
            add(f"1.layer{stage}.{block}.conv2", width, width, 3)
            add(f"1.layer{stage}.{block}.conv3", 4 * width, width, 1)
            inner = 4 * width
    return arrays


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    file = tmp_path_factory.mktemp("weights") / "folded.npz"
    np.savez(file, **folded_resnet50(np.random.default_rng(0)))
    network = build("resnet50")
    load_backbone(network, file)
    return network, file


@functools.cache
def reference_network() -> keras.Model:
    return keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")


def sees_what_torch_sees(network: keras.Model, file: Path) -> None:
    """Compare a network's features with those of a ResNet-50 that takes torch's input and the file's first kernel."""
    reference = reference_network()
    backbone = network.get_layer("backbone")
    for layer in reference.layers:
        if layer.weights:
            layer.set_weights(backbone.get_layer(layer.name).get_weights())
    with np.load(file) as arrays:
        kernel = arrays["1.conv1.weight"].transpose(2, 3, 1, 0)
        reference.get_layer("conv1_conv").set_weights([kernel, arrays["1.conv1.bias"]])
    expected = np.asarray(reference(((PIXELS / 255 - MEAN) / DEVIATION).astype(np.float32)))
    found = np.asarray(network(PIXELS.astype(np.float32))["features"])
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()  # conv1's zero padding is another gray


def test_folded_resnet50_weights_see_the_same_photo(resnet50: tuple[keras.Model, Path]) -> None:
    sees_what_torch_sees(*resnet50)


def test_every_convolution_of_a_folded_resnet50_is_set(resnet50: tuple[keras.Model, Path]) -> None:
    network, file = resnet50
    with np.load(file) as read:
        arrays = dict(read)
    convolutions = [x for x in network.get_layer("backbone").layers if isinstance(x, keras.layers.Conv2D)]
    assert len(convolutions) == len(arrays) / 2 == 53
    for layer in convolutions[1:]:
        kernel = layer.get_weights()[0].transpose(3, 2, 0, 1)
        assert any(kernel.shape == a.shape and np.allclose(kernel, a, atol=1e-6) for a in arrays.values()), layer.name


@pytest.mark.shared_data
def test_the_shared_resnet50_weights_load_and_see_the_same(shared: Path) -> None:
    network, file = build("resnet50"), shared / "weights" / "resnet50_v1_folded_sparse.npz"
    load_backbone(network, file)
    sees_what_torch_sees(network, file)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy leaves damaged files open
@pytest.mark.parametrize("damage", [b"", b"not arrays", b"PK\x03\x04 cut off"])
def test_weights_of_another_network_or_cut_off_are_named(mobilenet: keras.Model, tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "other.npz"
    if damage:
        file.write_bytes(damage)
    else:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(RunError, match=r"other\.npz do not fit the backbone of mobilenet_v3_small"):
        load_backbone(mobilenet, file)
    with pytest.raises(RunError, match=r"other\.npz do not fit mobilenet_v3_small"):
        load_weights(mobilenet, file)


def test_a_disk_that_is_full_is_one_error_without_noise(
    mobilenet: keras.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """h5py, which Keras writes weights with, prints a traceback for each array."""
    with no_room_beyond(100_000), pytest.raises(OSError, match=r"'\S+weights\.full\.npz'"):
        save_weights(mobilenet, tmp_path / "weights.full.npz")
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_is_full_is_named() -> None:
    with no_room_beyond(1000), pytest.raises(OSError, match=tempfile.gettempdir()):
        convert(tiny_network("mobilenet_v3_small"), temperature=1)


def test_a_figure_of_the_report_that_has_no_room_is_named_and_not_left_cut_off(tmp_path: Path) -> None:
    with no_room_beyond(1000), pytest.raises(OSError, match=r"roc\.png"), _axes(tmp_path / "roc.png"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "megabytes"), [("int8", 1.5), ("float16", 2.5)])  # 4.4 as float32
def test_compact_weights_come_back_nearly(
    mobilenet: keras.Model, blank: keras.Model, tmp_path: Path, kind: Kind, megabytes: float
) -> None:
    file = tmp_path / "weights.npz"
    save_weights(mobilenet, file, kind=kind)
    load_weights(blank, file)
    for mine, theirs in zip(mobilenet.get_weights(), blank.get_weights(), strict=True):
        step = np.abs(mine).max() / 127 if mine.ndim > 1 and kind == "int8" else 0
        np.testing.assert_allclose(theirs, mine, rtol=0 if step else 1e-3, atol=step / 2 + 1e-6)
    assert file.stat().st_size < megabytes * 1e6


def test_every_channel_has_its_own_scale_and_keeps_its_extremes() -> None:
    depthwise = np.stack((np.full((3, 3), 100.0), np.full((3, 3), 0.01)), axis=-1)[..., None].astype(np.float32)
    steps, scale = quantize(depthwise)
    np.testing.assert_allclose(steps * scale, depthwise, rtol=1e-2)
    value = np.array([[0.0, -2.0, 1.0], [0.0, 1.0, 0.5]], np.float32)
    steps, scale = quantize(value)
    np.testing.assert_allclose(steps * scale, value, atol=0.01)
    assert steps[0].tolist() == [0, -127, 127]


def test_augmentation_of_nothing_changes_nothing() -> None:
    found = augment(PIXELS, Augmentation(), side=224, seed=(0, 0))
    np.testing.assert_allclose(found, PIXELS, atol=1e-3)


EVERYTHING = Augmentation(
    rotation=180.0, zoom=(0.8, 1.2), shift=0.1, shear=5.0, flip=True, brightness=0.2, channel_gain=0.1,
    contrast=0.2, saturation=0.2, sharpness=0.9,
)  # fmt: skip


def test_augmentation_follows_from_its_seed_and_varies_each_photo() -> None:
    twins = np.repeat(PIXELS[:1], 3, axis=0)
    found = np.asarray(augment(twins, EVERYTHING, side=160, seed=(1, 2)))
    assert found.shape == (3, 160, 160, 3)
    assert found.min() >= 0
    assert found.max() <= 255
    np.testing.assert_array_equal(found, augment(twins, EVERYTHING, side=160, seed=(1, 2)))
    assert not np.allclose(found, augment(twins, EVERYTHING, side=160, seed=(1, 3)))
    assert not np.allclose(found[0], found[1])


def test_a_small_crop_keeps_the_magnification() -> None:
    gradient = np.tile(np.arange(224, dtype=np.uint8), (1, 224, 1))[..., None].repeat(3, axis=-1)
    crop = np.asarray(augment(gradient, Augmentation(), side=100, seed=(4, 4)))
    np.testing.assert_allclose(np.diff(crop[0, 50, :, 0]), 1, atol=1e-3)


def test_fused_batch_norm_is_what_keras_computes_in_both_modes() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(3, 2, (4, 5, 5, 6)).astype(np.float32)
    ours = FusedBatchNormalization(name="norm", momentum=0.9, epsilon=1e-3)
    theirs = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3)
    for layer in (ours, theirs):
        layer.build(maps.shape)
    theirs.set_weights([rng.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4)])
    ours.set_weights(theirs.get_weights())
    for training in (False, True):
        np.testing.assert_allclose(ours(maps, training=training), theirs(maps, training=training), atol=1e-4)
    # TensorFlow's takes the unbiased variance into the moving one, Keras's the biased one: n/(n-1), with n = 100.
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=0.02)


def test_frozen_batch_norm_keeps_its_statistics_in_training() -> None:
    layer = FusedBatchNormalization(name="norm", momentum=0.5, epsilon=1e-3)
    layer.build((None, None, None, 2))
    layer.trainable = False
    layer(np.full((1, 4, 4, 2), 9, np.float32), training=True)
    assert np.asarray(layer.moving_mean).tolist() == [0, 0]
