"""The same weights for everyone: a version in a store, and Keras's own forms of the network with its softmax.

Run as `python -m benchmarks.comparison.weights FOLDER MODEL...`, in the project's own environment. Shipped weights
where there are any, random ones (seed 0) otherwise: how long an answer takes does not depend on them.
"""

import pathlib
import sys

import keras

from dermserve.models.architectures import build
from dermserve.models.export import SHIPPED
from dermserve.models.training.export.content import run_content
from dermserve.models.version import Content, write_version
from dermserve.v1 import card_pb2


def main(folder: pathlib.Path, models: list[str]) -> None:
    """Write what is lacking."""
    for model in models:
        file = folder / f"{model}.weights.h5"
        content = _content(model)
        write_version(content, folder / "store")
        temperature = content.calibration.temperature if content.calibration else 1.0
        logits = content.network.output["logits"]
        probabilities = keras.layers.Softmax(name="probabilities")(
            keras.layers.Rescaling(1 / (temperature or 1.0), name="temperature")(logits)
        )
        network = keras.Model(content.network.input, probabilities)
        # Keras 3 can't load a whole MobileNetV3 from .h5 (its arithmetic on tensors trips over positional constants):
        # its layers go into JSON, and its weights alone into .h5.
        file.with_name(f"{model}.json").write_text(network.to_json())
        beside = file.with_name(f"part-{file.name}")
        network.save_weights(beside)
        network.export(folder / "exported" / model, verbose=False)
        beside.replace(file)


def _content(model: str) -> Content:
    if (run := SHIPPED / model).is_dir():
        return run_content(run)
    keras.utils.set_random_seed(0)
    origin = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization="random (seed 0)")
    return Content(network=build(model), provenance=origin)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
