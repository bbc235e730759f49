"""Make a version from a source of weights. Importing this module imports TensorFlow, which takes a while."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from dermserve.contract import CardError
from dermserve.models.architectures import build
from dermserve.models.graph import Weights
from dermserve.models.lifecycle.errors import ExportError, LifecycleError
from dermserve.models.training.errors import TrainingError
from dermserve.models.training.export.content import run_content
from dermserve.models.verify import VerificationError
from dermserve.models.version import Content, write_version
from dermserve.models.weights import WeightsError, load_weights
from dermserve.v1 import card_pb2


def export_model(
    model: str,
    store: pathlib.Path | str,
    *,
    weights: pathlib.Path | None = None,
    backbone: pathlib.Path | str | None = None,
    seed: int = 0,
    graph: str = "frozen",
) -> int:
    """Build a model, give it weights and write it into the store as a new version, whose number is returned.

    Args:
        model: a key of SPECS.
        store: path or URL of the store.
        weights: a file with weights of the whole network; the card says that their training is unknown.
        backbone: a file with weights of the backbone alone, or "imagenet" for those that Keras downloads.
        seed: of random weights: the head, or without `weights` and `backbone` everything.
        graph: how the graph holds its weights, a value of graph.Weights.

    Raises:
        ExportError: the weights don't fit, or the export does not keep the model contract.
    """
    keras.utils.set_random_seed(seed)
    with _exporting(f"{model}: "):
        network = build(model, backbone_weights=None if backbone is None else str(backbone))
        if weights is not None:
            load_weights(network, weights)
        origin = f"file {weights.name}" if weights else f"random (seed {seed})"
        if backbone is not None:
            origin = f"backbone {pathlib.Path(backbone).name}, head {origin}"
        provenance = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization=origin)
        return write_version(Content(network=network, provenance=provenance, weights=Weights(graph)), store)


def export_run(
    run: pathlib.Path, store: pathlib.Path | str, *, graph: str = "frozen", sign: pathlib.Path | None = None
) -> int:
    """Write what a run trained into the store as a new version, whose number is returned.

    Args:
        run: folder of a finished and evaluated `dermserve train`.
        store: path or URL of the store.
        graph: how the graph holds its weights, a value of graph.Weights.
        sign: PEM file of the private key to sign it with.

    Raises:
        ExportError: no such run, or the export does not keep the model contract.
    """
    with _exporting():
        return write_version(dataclasses.replace(run_content(run), weights=Weights(graph)), store, sign=sign)


@contextlib.contextmanager
def _exporting(prefix: str = "") -> Iterator[None]:
    tf.get_logger().setLevel(logging.ERROR)
    try:
        yield
    except (WeightsError, CardError, VerificationError, TrainingError, LifecycleError) as error:
        raise ExportError(f"{prefix}{error}") from error
