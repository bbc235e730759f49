"""What the contenders share: the model, in one of two ways, behind one call.

Runs in each contender's own environment. `Given` has dermserve's decoder and frozen graph, with `serving/` on
PYTHONPATH; `Documented` has what Pillow's and Keras's own guides show, and nothing of ours.
"""

import io
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAVED_MODEL = pathlib.Path(os.environ.get("COMPARISON_SAVED_MODEL", ""))
KERAS_FILE = pathlib.Path(os.environ.get("COMPARISON_KERAS_FILE", ""))
DOCUMENTED = os.environ.get("COMPARISON_DOCUMENTED") == "1"
PORT = int(os.environ.get("COMPARISON_PORT", "0"))
CORES = int(os.environ.get("COMPARISON_CORES", "1"))
_SIDE = 224


class Model(Protocol):
    """Photos with the number of views of each, to probabilities."""

    def classify_all(self, photos: Sequence[tuple[bytes, int]]) -> list[list[float]]:
        """Classify several photos in one call."""


def load_model() -> Model:
    """Load the model in the way that this contender is started with."""
    return Documented() if DOCUMENTED else Given()


def pillow_pixels(photo: bytes) -> NDArray[np.float32]:
    """Decode a photo as Pillow's guide shows: float32 [224, 224, 3]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((_SIDE, _SIDE)), np.float32)


class Documented:
    """Keras's `model.export`, with variables, and one view."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(SAVED_MODEL))
        self.classify_all([])

    def classify_all(self, photos: Sequence[tuple[bytes, int]]) -> list[list[float]]:
        """Classify several photos in one call."""
        pixels = [pillow_pixels(photo) for photo, _ in photos] or [np.zeros((_SIDE, _SIDE, 3), np.float32)]
        found: list[list[float]] = self._loaded.serve(np.stack(pixels)).numpy().tolist()
        return found


class Given:
    """The SavedModel that TensorFlow Serving would serve, and the gateway's decoder and views."""

    def __init__(self) -> None:
        import tensorflow as tf

        from dermserve.imaging import STANDARD_VIEWS, decode, make_views

        # As the gateway's model server: processes share the cores instead.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._views_of = lambda photo, count: make_views(
            decode(photo, height=_SIDE, width=_SIDE).pixels, STANDARD_VIEWS[:count]
        )
        self._loaded = tf.saved_model.load(str(SAVED_MODEL))
        self._call, self._constant = self._loaded.signatures["serving_default"], tf.constant
        for count in (1, 10):
            self._probabilities(np.zeros((count, _SIDE, _SIDE, 3), np.uint8))

    def _probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [V, 224, 224, 3] to float32 [V, C]."""
        return np.asarray(self._call(images=self._constant(pixels))["probabilities"].numpy())

    def classify_all(self, photos: Sequence[tuple[bytes, int]]) -> list[list[float]]:
        """Classify several photos, each with a number of views, in one call."""
        views = [self._views_of(photo, count) for photo, count in photos]
        rows = np.split(self._probabilities(np.concatenate(views)), np.cumsum([len(some) for some in views])[:-1])
        return [np.mean(some, axis=0, dtype=np.float64).tolist() for some in rows]
