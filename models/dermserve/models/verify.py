"""Check a SavedModel through TensorFlow Serving's session loader: one that tf.saved_model.load takes may fail in it."""

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
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

_BATCH = 2


class VerificationError(RuntimeError):
    """An export that must not be served. The message says which signature and what is wrong."""


def verify(run: "LoadedVersion") -> card_pb2.Card:
    """Check every promise of the model contract that can be checked without right answers; return the card."""
    _check_batch_dimensions(run.signatures)
    cards = run(Signature.DESCRIBE, {Input.QUERY: np.array([b"", b"any"], object)})[Output.CARD]
    if cards.shape != (2,) or cards[0] != cards[1]:
        raise VerificationError("signature describe: two queries must give two equal cards")
    try:
        card = parse_card(cards[0])
    except CardError as error:
        raise VerificationError(f"signature describe: {error}") from error
    _check_refusals(run, side=card.input.height)
    images = np.random.default_rng(0).integers(0, 256, (_BATCH, card.input.height, card.input.width, 3), np.uint8)
    single = run(Signature.SERVING_DEFAULT, {Input.IMAGES: images})
    _check_scores(Signature.SERVING_DEFAULT, single, classes=len(card.classes))
    encoded = run(Signature.ENCODED, {Input.IMAGE_BYTES: np.array([png(image) for image in images], object)})
    _check_close(Signature.ENCODED, encoded, single, card)
    _check_tta(run, images, card)
    return card


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A SavedModel in a session; call it with a signature and its inputs."""

    session: tf.compat.v1.Session
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]

    def __call__(self, signature: Signature, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run a signature. Raises VerificationError: it is missing or fails; TensorFlow's own error is the cause."""
        if signature not in self.signatures:
            raise VerificationError(f"signature {signature} is missing")
        definition = self.signatures[signature]
        try:
            feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
            fetches = {name: tensor.name for name, tensor in definition.outputs.items()}
            outputs: Mapping[str, Array] = self.session.run(fetches, feeds)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise VerificationError(f"signature {signature} does not run: {error}") from error
        return outputs


@contextlib.contextmanager
def open_version(version_folder: Path) -> Iterator[LoadedVersion]:
    """Load a SavedModel as TensorFlow Serving does; return an object that runs its signatures."""
    with contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())) as session:
        with session.graph.as_default():
            # TensorFlow Serving runs the C++ version of this loader, although this one is called deprecated.
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version_folder))
        yield LoadedVersion(session, loaded.signature_def)


def _check_batch_dimensions(definitions: Mapping[str, meta_graph_pb2.SignatureDef]) -> None:
    """With `--enable_batching` TensorFlow Serving does not load or run a signature that breaks this."""
    for signature in Signature:
        definition = definitions.get(signature, meta_graph_pb2.SignatureDef())
        if signature in definitions and not definition.inputs:
            raise VerificationError(f"signature {signature} has no input: TensorFlow Serving can't batch it")
        for kind, tensors in (("input", definition.inputs), ("output", definition.outputs)):
            for name, tensor in tensors.items():
                dims = tensor.tensor_shape.dim
                if not dims or dims[0].size != -1:
                    raise VerificationError(f"signature {signature}: {kind} {name} has no batch dimension")


def _check_refusals(run: LoadedVersion, *, side: int) -> None:
    wrong = ((side // 2, side // 2, 3), (side, side + 1, 3), (side + 1, side, 3), (side, side, 1), (side, side, 4))
    for signature, size in itertools.product((Signature.SERVING_DEFAULT, Signature.TTA), wrong):
        cause = None
        try:
            run(signature, {Input.IMAGES: np.zeros((1, *size), np.uint8)})
        except VerificationError as error:
            cause = error.__cause__
        # Python's session compares with the placeholder and raises ValueError; that is not a refusal by the graph.
        if not isinstance(cause, tf.errors.InvalidArgumentError):
            what = f"the graph must refuse images of {size} with INVALID_ARGUMENT"
            raise VerificationError(f"signature {signature}: {what}")


def _check_scores(signature: Signature, outputs: Mapping[str, Array], *, classes: int) -> None:
    probabilities = outputs[Output.PROBABILITIES]
    scores = (_BATCH, classes)
    for name, shape in {Output.PROBABILITIES: scores, Output.LOGITS: scores, Output.OOD_SCORE: scores[:1]}.items():
        value = outputs[name]
        if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            raise VerificationError(f"signature {signature}: {name} must be finite float32 {shape}")
    if not np.allclose(probabilities.sum(-1), 1, atol=1e-4):
        raise VerificationError(f"signature {signature}: probabilities do not sum to 1")


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 [H, W, 3], as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _check_tta(run: LoadedVersion, images: NDArray[np.uint8], card: card_pb2.Card) -> None:
    outputs = run(Signature.TTA, {Input.IMAGES: images})
    _check_scores(Signature.TTA, outputs, classes=len(card.classes))
    for index, image in enumerate(images):
        views = run(Signature.SERVING_DEFAULT, {Input.IMAGES: make_views(image, card.views)})
        means = {name: value.mean(0) for name, value in views.items()}
        means[Output.OOD_SCORE] = views[Output.OOD_SCORE][0]
        means[Output.VIEW_PROBABILITIES] = views[Output.PROBABILITIES]
        _check_close(Signature.TTA, {name: value[index] for name, value in outputs.items()}, means, card)


def _check_close(
    signature: Signature, outputs: Mapping[str, Array], expected: Mapping[str, Array], card: card_pb2.Card
) -> None:
    if set(outputs) != set(expected):
        raise VerificationError(f"signature {signature} has outputs {sorted(outputs)}, not {sorted(expected)}")
    for name, limit in allowed(expected, temperature=card.calibration.temperature or 1.0).items():
        if name in expected:
            worst = float(np.abs(comparable(name, outputs[name]) - comparable(name, expected[name])).max())
            if not worst <= limit:
                what = f"{name} differs from serving_default by {worst:.2g}, more than rounding's {limit:.2g}"
                raise VerificationError(f"signature {signature}: {what}")
