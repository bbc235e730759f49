"""Flask; as documented, and as many papers do, with Keras's model.predict on the .h5."""

from collections.abc import Sequence

import numpy as np
from flask import Flask, Response, jsonify, request

from benchmarks.comparison.contenders.shared import DOCUMENTED, KERAS_FILE, load_model, pillow_pixels


class Keras:
    """The network in Keras: its layers from JSON, its weights from .h5."""

    def __init__(self) -> None:
        import keras

        layers = KERAS_FILE.with_name(KERAS_FILE.name.replace(".weights.h5", ".json"))
        self._network = keras.models.model_from_json(layers.read_text())
        self._network.load_weights(KERAS_FILE)

    def classify_all(self, photos: Sequence[tuple[bytes, int]]) -> list[list[float]]:
        """Classify several photos, one view each, in one call."""
        found: list[list[float]] = self._network.predict(
            np.stack([pillow_pixels(photo) for photo, _ in photos]), verbose=0
        ).tolist()
        return found


app = Flask(__name__)
_model = Keras() if DOCUMENTED else load_model()


@app.post("/classify")
def classify() -> Response:
    """Classify one photo."""
    (answer,) = _model.classify_all([(request.get_data(), int(request.args.get("views", "1")))])
    return jsonify(probabilities=answer)
