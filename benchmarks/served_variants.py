"""The graphs that `served_graph.py` compares, written as versions a model server can load. Imports TensorFlow.

Run as `python -m benchmarks.served_variants MODEL FOLDER`.
"""

import pathlib
import sys
from typing import Any

import keras
import tensorflow as tf

from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.export import SHIPPED
from dermserve.models.folding import fold_batch_norm
from dermserve.models.graph import freeze_core
from dermserve.models.training.export.content import run_content

VARIABLES, FOLDED, FROZEN = "variables", "folded", "frozen"


def write_variants(model: str, folder: pathlib.Path) -> None:
    """Write every graph of a model to FOLDER/GRAPH/MODEL/1."""
    network = _network(model)
    side = SPECS[model].input_side
    _save_variables(network, folder / VARIABLES / model / "1", side=side)
    _save_variables(fold_batch_norm(network), folder / FOLDED / model / "1", side=side)
    _save_frozen(network, folder / FROZEN / model / "1")


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


if __name__ == "__main__":
    write_variants(sys.argv[1], pathlib.Path(sys.argv[2]))
