"""What a network said of photos, remembered: ten views of a few thousand photos take ResNet-50 an hour on two cores.

Each photo has a file, named by all that its outputs depend on, so that evaluating again reads them and an evaluation
that was interrupted goes on.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.training.data.cache import imaging_version
from dermserve.models.training.evaluate.predict import Outputs, frozen_function, run_views
from dermserve.models.training.files import replacing
from dermserve.models.training.train.loop import Labelled

_VIEWS_AT_ONCE = 64


def remembered(
    network: keras.Model,
    photos: Labelled,
    *,
    folder: Path,
    views: Sequence[str],
    precision: str,
    progress: Callable[[int], None],
) -> Outputs:
    """Give what predict.predict gives, from files where an earlier call left them.

    Args:
        network: what architectures.build returns.
        photos: N of them.
        folder: where the files lie, in a folder for each network, precision and views; made when absent.
        views: names of standard views.
        precision: of the arithmetic.
        progress: called with the number of photos done since the last call.
    """
    own = folder / f"outputs-{_settings_digest(network, views, precision)}"
    own.mkdir(parents=True, exist_ok=True)
    infer = functools.cache(lambda: frozen_function(network, precision=precision))
    parts, step = [], max(1, _VIEWS_AT_ONCE // len(views))
    for start in range(0, len(photos), step):
        chunk = Labelled(photos.images, photos.rows[start : start + step], photos.labels[start : start + step])
        files = [own / f"{_digest(photos.images[row].tobytes())}.npz" for row in chunk.rows]
        if not all(file.is_file() for file in files):
            _save(run_views(infer(), chunk, views=views, batch=_VIEWS_AT_ONCE), files)
        parts += [_load(file) for file in files]
        progress(len(chunk))
    return Outputs(np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts]))


def _save(outputs: Outputs, files: Sequence[Path]) -> None:
    for logits, features, file in zip(outputs.logits, outputs.features, files, strict=True):
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez(stream, logits=logits, features=features)


def _load(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(file) as arrays:
        return arrays["logits"], arrays["features"]


def _settings_digest(network: keras.Model, views: Sequence[str], precision: str) -> str:
    weights = [_digest(np.ascontiguousarray(weight).tobytes()) for weight in network.get_weights()]
    return _digest(json.dumps([network.name, weights, list(views), precision, imaging_version()]).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]
