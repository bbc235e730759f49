"""The contenders' servers, each in its own environment: one model behind Flask or FastAPI, as documented or as ours."""

import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAVED_MODEL = os.environ.get("COMPARISON_SAVED_MODEL", "")
KERAS_FILE = pathlib.Path(os.environ.get("COMPARISON_KERAS_FILE", ""))
DOCUMENTED = os.environ.get("COMPARISON_DOCUMENTED") == "1"
_SIDE = 224
Classify = Callable[[bytes, int], list[float]]  # a photo and a number of views to probabilities


def flask_app() -> Any:
    """Flask; as documented, and as many papers do, with Keras's model.predict on the .h5."""
    from flask import Flask, Response, jsonify, request

    app, classify = Flask(__name__), _load_keras() if DOCUMENTED else _load_given()

    @app.post("/classify")
    def answer() -> Response:
        return jsonify(probabilities=classify(request.get_data(), int(request.args.get("views", "1"))))

    return app


def fastapi_app() -> Any:
    """FastAPI; the work is done in a thread, so that the event loop stays free."""
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    app, classify = FastAPI(), _load_exported() if DOCUMENTED else _load_given()

    @app.post("/classify")
    async def answer(request: Request, views: int = 1) -> dict[str, list[float]]:
        return {"probabilities": await run_in_threadpool(classify, await request.body(), views)}

    return app


def _pillow_pixels(photo: bytes) -> NDArray[np.float32]:
    """Decode a photo as Pillow's guide shows: float32 [1, 224, 224, 3]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((_SIDE, _SIDE)), np.float32)[np.newaxis]


def _load_keras() -> Classify:
    """Load the network in Keras: its layers from JSON, its weights from .h5."""
    import keras

    layers = KERAS_FILE.with_name(KERAS_FILE.name.replace(".weights.h5", ".json"))
    network = keras.models.model_from_json(layers.read_text())
    network.load_weights(KERAS_FILE)
    return lambda photo, views: [float(each) for each in network.predict(_pillow_pixels(photo), verbose=0)[0]]


def _load_exported() -> Classify:
    """Load what Keras's `model.export` wrote, with variables, for one view."""
    import tensorflow as tf

    loaded = tf.saved_model.load(SAVED_MODEL)
    loaded.serve(np.zeros((1, _SIDE, _SIDE, 3), np.float32))
    return lambda photo, views: [float(each) for each in loaded.serve(_pillow_pixels(photo)).numpy()[0]]


def _load_given() -> Classify:
    """Load the SavedModel that TensorFlow Serving would serve, with the gateway's decoder and views."""
    import tensorflow as tf

    from dermserve.imaging import STANDARD_VIEWS, decode, make_views

    # As the gateway's model server: processes share the cores instead.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(SAVED_MODEL)

    def probabilities(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(loaded.signatures["serving_default"](images=tf.constant(pixels))["probabilities"])

    def classify(photo: bytes, views: int) -> list[float]:
        pixels = make_views(decode(photo, height=_SIDE, width=_SIDE), STANDARD_VIEWS[:views])
        return [float(value) for value in np.mean(probabilities(pixels), axis=0, dtype=np.float64)]

    for count in (1, 10):
        probabilities(np.zeros((count, _SIDE, _SIDE, 3), np.uint8))
    return classify
