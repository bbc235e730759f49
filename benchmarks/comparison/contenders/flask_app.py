"""The papers' way: Flask, and Keras's model.predict on the .h5."""

import keras
import numpy as np
from flask import Flask, Response, jsonify, request

from benchmarks.comparison.contenders.shared import KERAS_FILE, mean, use_threads, views_of

use_threads()
app = Flask(__name__)
_layers = KERAS_FILE.with_name(KERAS_FILE.name.replace(".weights.h5", ".json"))
_model = keras.models.model_from_json(_layers.read_text())
_model.load_weights(KERAS_FILE)
_model.predict(np.zeros((1, 224, 224, 3), np.float32), verbose=0)


@app.post("/classify")
def classify() -> Response:
    """Classify one photo."""
    views = views_of(request.get_data(), int(request.args.get("views", "1")))
    return jsonify(probabilities=mean(_model.predict(views.astype(np.float32), verbose=0)))
