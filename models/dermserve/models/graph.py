"""The served graph: one core, which has the weights, and the four signatures that call it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dermserve.contract import Input, Output, Signature
from dermserve.imaging.views import BRIGHTNESS_STEP
from dermserve.models.folding import fold_batch_norm

Tensor: TypeAlias = Any
Core: TypeAlias = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDistance:
    """An out-of-distribution score: squared Mahalanobis distance of the features to the nearest class mean.

    score = min over c of |projection · (features - centers[c])|² (Lee et al., "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018).
    """

    centers: NDArray[np.float32]  # float32 [C, F]
    projection: NDArray[np.float32]  # float32 [F, K]; times its transpose: the precision matrix, or a part of rank K
    unit: bool = False  # whether features are first scaled to unit length (Müller & Hein, "Mahalanobis++", ICML 2025)
    scope: NDArray[np.float32] | None = None
    """float32 [F + 1]: weights of the features, scaled as above, and a constant. With it the score of a photo within
    `limit` is the logistic of their sum, below 1: how likely the lesion is of a class the network does not know. Beyond
    the limit the score is the distance over the limit, above 1."""
    limit: float = 0.0  # distance beyond which a photo does not show skin; for `scope` alone


def freeze_core(
    network: keras.Model, *, temperature: float = 1.0, distance: FeatureDistance | None = None, frozen: bool = True
) -> Core:
    """Turn a network into a function of uint8 [N, H, W, 3] that returns what `scored` does; else as `freeze`.

    Logits are divided by the temperature before the softmax (Guo et al., "On Calibration of Modern Neural Networks",
    ICML 2017). Without `distance` the score is the energy, -log Σ exp(logits) (Liu et al., "Energy-based
    Out-of-distribution Detection", NeurIPS 2020).
    """
    compute = functools.partial(scored, temperature=temperature, distance=distance)
    return freeze(fold_batch_norm(network, fusible=True), compute, frozen=frozen)


def freeze(folded: keras.Model, compute: Callable[[Any], dict[str, Tensor]], *, frozen: bool = True) -> Core:
    """Turn a folded network into a function of uint8 [N, H, W, 3] that computes what `compute` makes of its outputs.

    Its attribute `tracked` is what its SavedModel must track: TensorFlow Serving finds the variables of a Keras 3 model
    only by name. Frozen it is fastest; with variables it takes less memory.
    """
    pixels = tf.TensorSpec([None, *folded.inputs[0].shape[1:]], tf.uint8, name=Input.IMAGES)

    @tf.function(input_signature=[pixels], autograph=False)
    def infer(images: Tensor) -> dict[str, Tensor]:
        return compute(folded(tf.cast(images, tf.float32), training=False))

    concrete = infer.get_concrete_function()
    constant = convert_variables_to_constants_v2(concrete) if frozen else None
    names = sorted(concrete.structured_outputs)  # tf.nest flattens a dict in the order of its keys

    def core(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, constant(images), strict=True)) if constant else concrete(images)

    core.tracked = constant or [weight.value for weight in folded.weights]  # type: ignore[attr-defined]
    return core


def scored(outputs: Mapping[str, Tensor], *, temperature: float, distance: FeatureDistance | None) -> dict[str, Tensor]:
    """Compute probabilities, logits [N, C] and ood_score [N], as freeze_core says, from logits and features [N, F]."""
    logits = outputs["logits"]
    score = -tf.reduce_logsumexp(logits, axis=-1) if distance is None else _distance(outputs["features"], distance)
    return {
        Output.PROBABILITIES.value: tf.nn.softmax(logits / temperature),
        Output.LOGITS.value: logits,
        Output.OOD_SCORE.value: score,
    }


def _distance(features: Tensor, distance: FeatureDistance) -> Tensor:
    if distance.unit:
        # The features of an untrained network may be shorter than TensorFlow's own bound of 1e-12.
        features = tf.math.l2_normalize(features, axis=-1, epsilon=1e-30)
    # Subtract first: the projection is large, and the difference of two large numbers would be mostly rounding error.
    whitened = (features[:, tf.newaxis] - distance.centers[np.newaxis]) @ distance.projection
    away = tf.reduce_min(tf.reduce_sum(whitened**2, axis=-1), axis=-1)
    if distance.scope is None:
        return away
    logits = tf.linalg.matvec(features, distance.scope[:-1]) + distance.scope[-1]
    relative = away / np.float32(distance.limit)
    return tf.where(relative > 1, relative, tf.sigmoid(logits))


def signatures(core: Core, *, side: int, views: Sequence[str], card: str) -> dict[str, Any]:
    """Build the four signatures of the contract as ConcreteFunctions by name, `tta` with the standard views `views`.

    Those of pixels refuse an empty batch and images that are not [N, side, side, 3] with INVALID_ARGUMENT.
    """
    # TensorFlow Serving does not compare a request with the placeholder, so the graph must check the size. Optimisers
    # would remove a check of what the placeholder already states: so it states no size.
    pixels = tf.TensorSpec([None, None, None, None], tf.uint8, name=Input.IMAGES)
    files = tf.TensorSpec([None], tf.string, name=Input.IMAGE_BYTES)

    @tf.function(input_signature=[pixels], autograph=False)
    def serving_default(images: Tensor) -> dict[str, Tensor]:
        return core(_checked(images, side))

    @tf.function(input_signature=[files], autograph=False)
    def encoded(image_bytes: Tensor) -> dict[str, Tensor]:
        spec = tf.TensorSpec([side, side, 3], tf.uint8)
        return core(tf.map_fn(lambda data: _decode(data, side), image_bytes, fn_output_signature=spec))

    @tf.function(input_signature=[pixels], autograph=False)
    def tta(images: Tensor) -> dict[str, Tensor]:
        checked = _checked(images, side)
        made = [functools.reduce(lambda view, step: _STEPS[step](view), name.split("_"), checked) for name in views]
        outputs = core(tf.reshape(tf.stack(made, axis=1), [-1, side, side, 3]))
        each = {
            name: tf.reshape(value, tf.concat([[-1, len(views)], tf.shape(value)[1:]], 0))
            for name, value in outputs.items()
        }
        averaged = {name: tf.reduce_mean(value, axis=1) for name, value in each.items()}
        averaged[Output.OOD_SCORE.value] = each[Output.OOD_SCORE.value][:, 0]
        return {**averaged, Output.VIEW_PROBABILITIES.value: each[Output.PROBABILITIES.value]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=Input.QUERY)], autograph=False)
    def describe(query: Tensor) -> dict[str, Tensor]:
        return {Output.CARD.value: tf.fill(tf.shape(query), tf.constant(card))}

    functions = zip(Signature, (serving_default, encoded, tta, describe), strict=True)
    return {name.value: function.get_concrete_function() for name, function in functions}


def _checked(images: Tensor, side: int) -> Tensor:
    """Let the graph refuse images that are not [N, side, side, 3] with N ≥ 1."""
    sized = tf.ensure_shape(images, [None, side, side, 3])
    # Kernels differ on an empty batch: some return no rows, others fail with a message about filters.
    with tf.control_dependencies([tf.debugging.Assert(tf.shape(sized)[0] > 0, ["there must be at least one image"])]):
        return tf.identity(sized)


def _decode(data: Tensor, side: int) -> Tensor:
    """Decode one file and fit it as dermserve.imaging does, without EXIF orientation and colour profiles."""
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    square = tf.reduce_min(size)
    scale = tf.repeat(side / square, 2)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        size=[side, side],
        scale=scale,
        translation=-(size - square) / 2 * scale,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.cast(tf.clip_by_value(tf.round(resized[0]), 0, 255), tf.uint8)


def _scaled(images: Tensor, numerator: int) -> Tensor:
    scaled = (tf.cast(images, tf.int32) * numerator + BRIGHTNESS_STEP // 2) // BRIGHTNESS_STEP
    return tf.cast(tf.minimum(scaled, 255), tf.uint8)


_STEPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda images: images,
    "flip": lambda images: tf.reverse(images, [2]),
    # Counter-clockwise, as np.rot90 turns.
    "rot90": lambda images: tf.reverse(tf.transpose(images, [0, 2, 1, 3]), [1]),
    "rot180": lambda images: tf.reverse(images, [1, 2]),
    "rot270": lambda images: tf.reverse(tf.transpose(images, [0, 2, 1, 3]), [2]),
    "darker": lambda images: _scaled(images, BRIGHTNESS_STEP - 1),
    "brighter": lambda images: _scaled(images, BRIGHTNESS_STEP + 1),
}
"""The steps of the standard views, whose names join them by underscores."""
