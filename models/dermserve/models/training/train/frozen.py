"""Run the layers that no stage trains over the photos once, if there is no augmentation (docs/training.md)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.errors import replacing
from dermserve.models.training.train.experiment import Augmentation, Experiment
from dermserve.models.training.train.loop import Progress
from dermserve.models.training.train.network import backbone_call, first_trainable

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Halves:
    """A training copy in two models that share its layers, so that the copy learns what the upper one does."""

    lower: keras.Model  # float32 RGB [N, S, S, 3] → the input of the trained layers
    upper: keras.Model  # that input → {"logits", "features"}; its layer "backbone" is the rest of the backbone


def split_frozen(copy: keras.Model, experiment: Experiment) -> Halves | None:
    """Split a training copy below the first layer that any stage of the experiment trains.

    Returns:
        None if photos are augmented, every layer is trained, or more than one tensor crosses.
    """
    side = SPECS[experiment.model].input_side
    whole = all(stage.side == side and stage.zoom is None for stage in experiment.stages)
    backbone = copy.get_layer("backbone")
    crossing = _crossing(backbone, min(first_trainable(backbone, stage.trainable) for stage in experiment.stages))
    varies = experiment.augmentation != Augmentation() or not whole
    if varies or len(crossing) != 1 or crossing[0] is backbone.input:
        return None
    preprocessed, pooled_from = backbone_call(copy)
    entry = keras.Model(copy.input, preprocessed)
    lower = keras.Model(copy.input, keras.Model(backbone.input, crossing[0])(entry(copy.input)))
    features = keras.Input(crossing[0].shape[1:])
    rest = keras.Sequential([keras.layers.Identity()], name="backbone")
    if crossing[0] is not backbone.output:
        rest = keras.Model(crossing[0], backbone.output, name="backbone")
    return Halves(lower, keras.Model(features, keras.Model(pooled_from, copy.output, name="head")(rest(features))))


def _crossing(backbone: keras.Model, first: int) -> list[Any]:
    """List the tensors that layers from `first` on take from layers before."""
    if first >= len(backbone.layers):
        return [backbone.output]
    upper = {layer.name for layer in backbone.layers[first:]}
    taken = [tensor for layer in backbone.layers[first:] for tensor in layer._inbound_nodes[0].input_tensors]
    return list({id(x): x for x in taken if x._keras_history.operation.name not in upper}.values())


def compute_frozen(lower: keras.Model, photos: Labelled, folder: Path, *, progress: Progress) -> NDArray[np.float16]:
    """Run the frozen layers over photos, or map the file of an earlier call with the same layers and photos.

    Returns:
        float16 [M, ...], memory-mapped, in the order of `photos.images`; other rows are zero.
    """
    path = folder / f"frozen-{_key(lower, photos)}.npy"
    if not path.is_file():
        shape = (len(photos.images), *lower.compute_output_shape((1, *photos.images.shape[1:]))[1:])
        infer = tf.function(lambda images: lower(tf.cast(images, tf.float32), training=False))
        with replacing(path) as partial:
            outputs: Any = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            for start in range(0, len(photos), _BATCH):
                rows = photos.rows[start : start + _BATCH]
                outputs[rows] = infer(photos.images[rows]).numpy()
                progress("frozen layers", start + len(rows), len(photos))
            outputs.flush()
    whole: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return whole


def _key(lower: keras.Model, photos: Labelled) -> str:
    digest = hashlib.sha256(photos.rows.tobytes())
    for values in (*lower.get_weights(), *(photos.images[row] for row in photos.rows)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def forget_frozen(folder: Path) -> None:
    """Remove the files of `compute_frozen` from a run folder, and partial files of a killed process."""
    for pattern in ("frozen-*", "*.partial", "partial-*"):
        for file in folder.glob(pattern):
            file.unlink()
