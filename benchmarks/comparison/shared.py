"""The model of the contenders, in one of two ways behind one call. Runs in each contender's own environment."""

import io
import os
import pathlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SAVED_MODEL = pathlib.Path(os.environ.get("COMPARISON_SAVED_MODEL", ""))
KERAS_FILE = pathlib.Path(os.environ.get("COMPARISON_KERAS_FILE", ""))
DOCUMENTED = os.environ.get("COMPARISON_DOCUMENTED") == "1"
_SIDE = 224
Classify = Callable[[bytes, int], list[float]]
"""A photo and a number of views to probabilities."""


def load_model() -> Classify:
    """Load the model in the way that this contender is started with."""
    return _load_documented() if DOCUMENTED else _load_given()


def pillow_pixels(photo: bytes) -> NDArray[np.float32]:
    """Decode a photo as Pillow's guide shows: float32 [1, 224, 224, 3]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((_SIDE, _SIDE)), np.float32)[np.newaxis]


def _load_documented() -> Classify:
    """Take Keras's `model.export`, with variables, and one view; nothing of ours."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(SAVED_MODEL))
    loaded.serve(np.zeros((1, _SIDE, _SIDE, 3), np.float32))
    return lambda photo, views: [float(each) for each in loaded.serve(pillow_pixels(photo)).numpy()[0]]


def _load_given() -> Classify:
    """Take the SavedModel that TensorFlow Serving would serve, and the gateway's decoder and views."""
    import tensorflow as tf

    from dermserve.imaging import STANDARD_VIEWS, decode, make_views

    # As the gateway's model server: processes share the cores instead.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(SAVED_MODEL))

    def probabilities(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(loaded.signatures["serving_default"](images=tf.constant(pixels))["probabilities"])

    def classify(photo: bytes, views: int) -> list[float]:
        pixels = make_views(decode(photo, height=_SIDE, width=_SIDE), STANDARD_VIEWS[:views])
        return [float(value) for value in np.mean(probabilities(pixels), axis=0, dtype=np.float64)]

    for count in (1, 10):
        probabilities(np.zeros((count, _SIDE, _SIDE, 3), np.uint8))
    return classify
