import dataclasses
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from dermserve.contract import Input, Output, Signature, parse_card
from dermserve.models.architectures import build
from dermserve.models.export import SHIPPED, export
from dermserve.models.exporter import run_content, write_version
from dermserve.models.lifecycle.stores import LocalStore
from dermserve.models.verify import VerificationError, open_version
from dermserve.v1 import card_pb2


def test_a_store_that_has_the_models_is_left_alone(own_store: pathlib.Path) -> None:
    result = CliRunner().invoke(export, ["--store", str(own_store)])
    assert result.exit_code == 0
    assert LocalStore(own_store).versions("resnet50") == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vgg16"], "vgg16"),
        (["--init-weights", "imagenet", "--weights", __file__], "exclude each other"),
        (["--init-weights", __file__], "--model"),
        (["--weights", __file__], "--model"),
        (["--weights", "missing.h5", "--model", "resnet50"], "does not exist"),
        ([".", "--random"], "RUN and --random exclude each other"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments: list[str], words: str, tmp_path: pathlib.Path) -> None:
    result = CliRunner().invoke(export, ["--store", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "mobilenet_v3_small", "--weights", __file__], "do not fit mobilenet_v3_small"),
        (["."], "lacks experiment.json"),
    ],
)
def test_a_source_of_no_weights_fails_and_leaves_the_store_empty(
    arguments: list[str], words: str, tmp_path: pathlib.Path
) -> None:
    result = CliRunner().invoke(export, [*arguments, "--store", str(tmp_path / "store")])
    assert (result.exit_code, words in result.output) == (1, True), result.output
    assert LocalStore(tmp_path / "store").models() == []


def test_a_full_disk_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fill)
    chosen = ["--model", "mobilenet_v3_small", "--random", "--store", str(tmp_path)]
    result = CliRunner().invoke(export, chosen)
    assert (result.exit_code, "mobilenet_v3_small: saved_model.pb; No space" in result.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_path_is_not_utf_8_is_one_line(tmp_path: pathlib.Path) -> None:
    """TensorFlow can't write there."""
    chosen = ["--model", "mobilenet_v3_small", "--random", "--store", os.fsdecode(bytes(tmp_path) + b"/caf\xe9")]
    result = CliRunner().invoke(export, chosen)
    assert (result.exit_code, "TensorFlow takes paths in UTF-8 alone" in result.output) == (1, True), result.output


def test_a_weights_file_becomes_a_new_version_that_still_counts_as_untrained(weights_store: pathlib.Path) -> None:
    assert LocalStore(weights_store).versions("mobilenet_v3_small") == [1, 2]
    provenance = _read_card(weights_store / "mobilenet_v3_small" / "2").provenance
    assert (provenance.training, provenance.initialization) == (card_pb2.TRAINING_NONE, "file some.weights.h5")


def test_backbone_weights_alone_leave_a_random_head(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "backbone.weights.h5"
    source = build("mobilenet_v3_small").get_layer("backbone")
    source.save_weights(file)
    network = build("mobilenet_v3_small", backbone_weights=str(file))
    kernels = [layer.get_weights()[0] for layer in (source, network.get_layer("backbone"))]
    assert (kernels[0] == kernels[1]).all()


def _read_card(folder: pathlib.Path) -> card_pb2.Card:
    with open_version(folder) as run:
        return parse_card(run(Signature.DESCRIBE, {Input.QUERY: np.array([b""], object)})[Output.CARD][0])


def test_a_tflite_model_of_another_calibration_is_refused(tmp_path: pathlib.Path) -> None:
    content = run_content(SHIPPED / "mobilenet_v3_small")
    assert content.tflite is not None
    assert content.calibration is not None
    assert content.distance is not None
    stale = dataclasses.replace(content, distance=dataclasses.replace(content.distance, limit=1.0))
    for each in (stale, dataclasses.replace(content, tflite=b"TFL3 without any file in it")):
        with pytest.raises(VerificationError, match="Convert it again with `dermserve tflite`"):
            write_version(each, tmp_path / "store")
    assert LocalStore(tmp_path / "store").versions("mobilenet_v3_small") == []
