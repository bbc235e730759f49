"""The graphs that `served_graph.py` compares, written as versions a model server can load. Imports TensorFlow."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.export import SHIPPED
from dermserve.models.folding import fold_batch_norm
from dermserve.models.graph import freeze_core
from dermserve.models.lifecycle.recording import pictures
from dermserve.models.training.content import run_content

VARIABLES, FOLDED, FROZEN = "variables", "folded", "frozen"
LITE_KINDS = ("float32", "float16", "int8")
_EXAMPLES = 20


def write_variants(model: str, folder: pathlib.Path) -> dict[str, str]:
    """Write every graph of a model to FOLDER/GRAPH/MODEL/1.

    Returns:
        What went wrong, by graph; the others are there.
    """
    network = _network(model)
    side = SPECS[model].input_side
    _save_variables(network, folder / VARIABLES / model / "1", side=side)
    _save_variables(fold_batch_norm(network), folder / FOLDED / model / "1", side=side)
    frozen = folder / FROZEN / model / "1"
    _save_frozen(network, frozen)
    faults = {}
    for kind in LITE_KINDS:
        try:
            _save_lite(frozen, folder / kind / model / "1", kind=kind, side=side)
        except (RuntimeError, ValueError, tf.errors.OpError) as error:
            faults[kind] = str(error).partition("\n")[0]
    return faults


def _network(model: str) -> keras.Model:
    """Give a network with the weights that dermserve ships, or random ones where it ships none: as fast."""
    keras.utils.set_random_seed(0)
    return run_content(SHIPPED / model).network if (SHIPPED / model).is_dir() else build(model)


def _outputs(logits: Any) -> dict[str, Any]:
    return {
        "probabilities": tf.nn.softmax(logits),
        "logits": logits,
        "ood_score": -tf.reduce_logsumexp(logits, axis=-1),
    }


def _save_variables(network: keras.Model, folder: pathlib.Path, *, side: int) -> None:
    spec = tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def serving_default(images: Any) -> dict[str, Any]:
        return _outputs(network(tf.cast(images, tf.float32), training=False)["logits"])

    module = tf.Module()
    # Keras 3 hides its variables from tf.Module: named here, the loader of TensorFlow Serving finds them.
    module.kept = [weight.value for weight in network.weights]
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serving_default.get_concrete_function()})


def _save_frozen(network: keras.Model, folder: pathlib.Path) -> None:
    core = freeze_core(network)
    side = network.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")], autograph=False)
    def serving_default(images: Any) -> dict[str, Any]:
        return core(images)

    module = tf.Module()
    module.core = core.tracked
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serving_default.get_concrete_function()})


def _save_lite(frozen: pathlib.Path, folder: pathlib.Path, *, kind: str, side: int) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(frozen), signature_keys=["serving_default"])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = _examples(side)
    model = converter.convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(model)


def _examples(side: int) -> Callable[[], Iterator[list[Any]]]:
    def examples() -> Iterator[list[Any]]:
        for image in pictures(_EXAMPLES, side=side):
            yield [image[np.newaxis]]

    return examples
