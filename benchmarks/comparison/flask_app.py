"""Flask; as documented, and as many papers do, with Keras's model.predict on the .h5."""

from flask import Flask, Response, jsonify, request

from benchmarks.comparison.shared import DOCUMENTED, KERAS_FILE, Classify, load_model, pillow_pixels


def _load_keras() -> Classify:
    """Load the network in Keras: its layers from JSON, its weights from .h5."""
    import keras

    network = keras.models.model_from_json(
        KERAS_FILE.with_name(KERAS_FILE.name.replace(".weights.h5", ".json")).read_text()
    )
    network.load_weights(KERAS_FILE)
    return lambda photo, views: [float(each) for each in network.predict(pillow_pixels(photo), verbose=0)[0]]


app = Flask(__name__)
_classify = _load_keras() if DOCUMENTED else load_model()


@app.post("/classify")
def classify() -> Response:
    """Classify one photo."""
    return jsonify(probabilities=_classify(request.get_data(), int(request.args.get("views", "1"))))
