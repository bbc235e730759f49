"""Write the same network in every form that is measured: `python -m benchmarks.networks FOLDER MODEL...`."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

FROZEN, VARIABLES, FOLDED, EXPORTED = "store", "variables", "folded", "exported"
"""Folders: what dermserve serves; the same with variables; those with batch norm folded; Keras's own export."""


def ensure_networks(folder: pathlib.Path, models: Sequence[str]) -> None:
    """Write the forms of the models that a folder lacks, in a process of its own."""
    if lacking := [model for model in models if not weights_file(folder, model).exists()]:
        command = [sys.executable, "-m", "benchmarks.networks", str(folder), *lacking]
        subprocess.run(command, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})


def weights_file(folder: pathlib.Path, model: str) -> pathlib.Path:
    """Name the file of Keras's weights, which is written last; the network's layers are in a .json beside it."""
    return folder / f"{model}.weights.h5"


def _write(folder: pathlib.Path, model: str) -> None:
    import keras

    from dermserve.models.architectures import build
    from dermserve.models.export import SHIPPED
    from dermserve.models.exporter import Content, run_content, write_version
    from dermserve.models.folding import fold_batch_norm
    from dermserve.v1 import card_pb2

    keras.utils.set_random_seed(0)
    origin = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization="random (seed 0)")
    shipped = (SHIPPED / model).is_dir()
    content = run_content(SHIPPED / model) if shipped else Content(network=build(model), provenance=origin)
    write_version(content, folder / FROZEN)
    temperature = (content.calibration.temperature if content.calibration else 1.0) or 1.0
    _save(content.network, folder / VARIABLES / model / "1", temperature)
    _save(fold_batch_norm(content.network), folder / FOLDED / model / "1", temperature)
    scaled = keras.layers.Rescaling(1 / temperature, name="temperature")(content.network.output["logits"])
    whole = keras.Model(content.network.input, keras.layers.Softmax(name="probabilities")(scaled))
    whole.export(folder / EXPORTED / model, verbose=False)
    # Keras 3 can't load a whole MobileNetV3 from .h5 (its arithmetic on tensors trips over positional constants):
    # its layers go into JSON, and its weights alone into .h5.
    (folder / f"{model}.json").write_text(whole.to_json())
    whole.save_weights(weights_file(folder, model))


def _save(network: Any, folder: pathlib.Path, temperature: float) -> None:
    import tensorflow as tf

    side = network.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")], autograph=False)
    def serving_default(images: Any) -> dict[str, Any]:
        logits = network(tf.cast(images, tf.float32), training=False)["logits"]
        score = -tf.reduce_logsumexp(logits, axis=-1)
        return {"probabilities": tf.nn.softmax(logits / temperature), "logits": logits, "ood_score": score}

    module = tf.Module()
    # Keras 3 hides its variables from tf.Module: named here, the loader of TensorFlow Serving finds them.
    module.kept = [weight.value for weight in network.weights]
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serving_default.get_concrete_function()})


if __name__ == "__main__":
    for name in sys.argv[2:]:
        _write(pathlib.Path(sys.argv[1]), name)
