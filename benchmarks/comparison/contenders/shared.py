"""What all contenders share: photos become pixels and views exactly as in the gateway, and the SavedModel's call.

Runs in each contender's own environment, with `serving/` on PYTHONPATH: dermserve.imaging needs Pillow and numpy alone.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS, decode, make_views

SAVED_MODEL = pathlib.Path(os.environ.get("COMPARISON_SAVED_MODEL", ""))
KERAS_FILE = pathlib.Path(os.environ.get("COMPARISON_KERAS_FILE", ""))
PORT = int(os.environ.get("COMPARISON_PORT", "0"))
CORES = int(os.environ.get("COMPARISON_CORES", "1"))
_SIDE = 224


def views_of(photo: bytes, count: int) -> NDArray[np.uint8]:
    """Decode a photo and make its first `count` standard views: uint8 [count, 224, 224, 3]."""
    return make_views(decode(photo, height=_SIDE, width=_SIDE).pixels, STANDARD_VIEWS[:count])


def mean(probabilities: NDArray[np.float32]) -> list[float]:
    """Average over views: [V, C] to C numbers."""
    return [float(value) for value in np.mean(probabilities, axis=0, dtype=np.float64)]


def use_threads() -> None:
    """Give TensorFlow one thread an operation, as the gateway's model server has: processes share the cores instead."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class Model:
    """The SavedModel that TensorFlow Serving would serve, called in this process."""

    def __init__(self) -> None:
        import tensorflow as tf

        use_threads()
        self._loaded = tf.saved_model.load(str(SAVED_MODEL))
        self._call = self._loaded.signatures["serving_default"]
        self._constant = tf.constant
        for count in (1, 10):
            self.probabilities(np.zeros((count, _SIDE, _SIDE, 3), np.uint8))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [V, 224, 224, 3] to float32 [V, C]."""
        return np.asarray(self._call(images=self._constant(pixels))["probabilities"].numpy())

    def classify(self, photo: bytes, count: int) -> list[float]:
        """Photo bytes to mean probabilities over `count` views."""
        return mean(self.probabilities(views_of(photo, count)))

    def classify_all(self, photos: Sequence[tuple[bytes, int]]) -> list[list[float]]:
        """Do so for several photos, each with a number of views, in one call."""
        views = [views_of(photo, count) for photo, count in photos]
        rows = np.split(self.probabilities(np.concatenate(views)), np.cumsum([len(some) for some in views])[:-1])
        return [mean(some) for some in rows]
