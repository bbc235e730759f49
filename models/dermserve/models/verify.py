"""Checking a SavedModel before it becomes a version, through the session loader that TensorFlow Serving uses.

`tf.saved_model.load` would not do: a SavedModel can work there and fail every Predict in TensorFlow Serving.
"""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow.core.protobuf import meta_graph_pb2

from dermserve.contract import CardError, Input, Output, Signature, parse_card
from dermserve.imaging import make_views
from dermserve.models.rounding import allowed, comparable
from dermserve.v1 import card_pb2

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[Signature, Mapping[str, Array]], Mapping[str, Array]]

_BATCH = 3
_SUM_TOLERANCE = 1e-4


class VerificationError(RuntimeError):
    """An export that must not be served. The message says which signature and what is wrong."""


def verify(version_folder: pathlib.Path) -> card_pb2.Card:
    """Check every promise of the model contract that can be checked without knowing right answers.

    Args:
        version_folder: holds the SavedModel.

    Returns:
        The card.

    Raises:
        VerificationError: a signature is missing, does not run or disagrees with another.
    """
    with open_version(version_folder) as run:
        card = _check_describe(run)
        images = np.random.default_rng(0).integers(0, 256, (_BATCH, card.input.height, card.input.width, 3), np.uint8)
        single = run(Signature.SERVING_DEFAULT, {Input.IMAGES: images})
        _check_scores(Signature.SERVING_DEFAULT, single, classes=len(card.classes))
        _check_encoded(run, images, single, temperature=card.calibration.temperature or 1.0)
        _check_tta(run, images, card)
    return card


@contextlib.contextmanager
def open_version(version_folder: pathlib.Path) -> Iterator[Run]:
    """Load a SavedModel as TensorFlow Serving does; give what runs its signatures."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        # Deprecated in name only: it is the loader whose C++ twin TensorFlow Serving runs.
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version_folder))

        def run(signature: Signature, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return _run(session, loaded.signature_def, signature, inputs)

        yield run


def _run(
    session: tf.compat.v1.Session,
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef],
    signature: Signature,
    inputs: Mapping[str, Array],
) -> Mapping[str, Array]:
    if signature not in signature_defs:
        raise VerificationError(f"signature {signature} is missing")
    definition = signature_defs[signature]
    try:
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        outputs: Mapping[str, Array] = session.run({n: i.name for n, i in definition.outputs.items()}, feeds)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise VerificationError(f"signature {signature} does not run: {error}") from error
    return outputs


def _check_describe(run: Run) -> card_pb2.Card:
    try:
        cards = run(Signature.DESCRIBE, {Input.QUERY: np.array([b""], object)})[Output.CARD]
        return parse_card(np.asarray(cards).item())
    except CardError as error:
        raise VerificationError(f"signature describe: {error}") from error


def _check_scores(signature: Signature, outputs: Mapping[str, Array], *, classes: int) -> None:
    probabilities = outputs[Output.PROBABILITIES]
    expected = {
        Output.PROBABILITIES: (_BATCH, classes),
        Output.LOGITS: (_BATCH, classes),
        Output.OOD_SCORE: (_BATCH,),
    }
    for name, shape in expected.items():
        value = outputs[name]
        if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            raise VerificationError(f"signature {signature}: {name} must be finite float32 {shape}")
    if not np.allclose(probabilities.sum(-1), 1, atol=_SUM_TOLERANCE):
        raise VerificationError(f"signature {signature}: probabilities do not sum to 1")


def _check_encoded(run: Run, images: NDArray[np.uint8], single: Mapping[str, Array], *, temperature: float) -> None:
    files = np.array([png(image) for image in images], object)
    _check_close(Signature.ENCODED, run(Signature.ENCODED, {Input.IMAGE_BYTES: files}), single, temperature=temperature)


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 [H, W, 3], as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _check_tta(run: Run, images: NDArray[np.uint8], card: card_pb2.Card) -> None:
    outputs = run(Signature.TTA, {Input.IMAGES: images})
    _check_scores(Signature.TTA, outputs, classes=len(card.classes))
    for index, image in enumerate(images):
        views = run(Signature.SERVING_DEFAULT, {Input.IMAGES: make_views(image, card.views)})
        means = {name: value.mean(0) for name, value in views.items()}
        means[Output.OOD_SCORE] = views[Output.OOD_SCORE][0]
        means[Output.VIEW_PROBABILITIES] = views[Output.PROBABILITIES]
        found = {name: value[index] for name, value in outputs.items()}
        _check_close(Signature.TTA, found, means, temperature=card.calibration.temperature or 1.0)


def _check_close(
    signature: Signature, outputs: Mapping[str, Array], expected: Mapping[str, Array], *, temperature: float
) -> None:
    if set(outputs) != set(expected):
        raise VerificationError(f"signature {signature} has outputs {sorted(outputs)}, not {sorted(expected)}")
    for name, limit in allowed(expected, temperature=temperature).items():
        if name in expected:
            worst = float(np.abs(comparable(name, outputs[name]) - comparable(name, expected[name])).max())
            if not worst <= limit:
                raise VerificationError(
                    f"signature {signature}: {name} differs from serving_default by {worst:.2g}, more than rounding"
                    f" explains ({limit:.2g})"
                )
