"""Making a version from one of the sources of weights."""

import dataclasses
import logging
import pathlib

from dermserve.v1 import card_pb2


class ExportError(RuntimeError):
    """An export that failed. The message says why; the store is as it was."""


def export_model(
    model: str,
    store: pathlib.Path | str,
    *,
    weights: pathlib.Path | None = None,
    backbone_weights: pathlib.Path | str | None = None,
    seed: int = 0,
    graph: str = "frozen",
) -> int:
    """Build a model, give it weights and write it into the store as a new version.

    Args:
        model: a key of SPECS.
        store: path or URL of the store.
        weights: weights of the whole network; its card says that nothing is known of their training.
        backbone_weights: a file with weights of the backbone alone, or "imagenet".
        seed: of what is random.
        graph: how it holds its weights, a value of graph.Weights.

    Returns:
        The version.

    Raises:
        ExportError: the weights don't fit, or the export does not keep the model contract.
    """
    import keras
    import tensorflow as tf

    from dermserve.contract import CardError
    from dermserve.models.architectures import build
    from dermserve.models.graph import Weights
    from dermserve.models.lifecycle.errors import LifecycleError
    from dermserve.models.verify import VerificationError
    from dermserve.models.version import Content, write_version
    from dermserve.models.weights import WeightsError, load_weights

    tf.get_logger().setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)
    try:
        network = build(model, backbone_weights=None if backbone_weights is None else str(backbone_weights))
        if weights is not None:
            load_weights(network, weights)
        origin = card_pb2.Provenance(
            training=card_pb2.TRAINING_NONE,
            initialization=_initialization(weights, backbone_weights, seed),
        )
        return write_version(Content(network=network, provenance=origin, weights=Weights(graph)), store)
    except (WeightsError, CardError, VerificationError, LifecycleError) as error:
        raise ExportError(f"{model}: {error}") from error


def export_run(
    run: pathlib.Path, store: pathlib.Path | str, *, graph: str = "frozen", sign: pathlib.Path | None = None
) -> int:
    """Write what a run trained into the store as a new version.

    Args:
        run: folder of a finished and evaluated `dermserve train`.
        store: path or URL of the store.
        graph: how it holds its weights, a value of graph.Weights.
        sign: PEM file of the private key to sign it with.

    Returns:
        The version.

    Raises:
        ExportError: no such run, or the export does not keep the model contract.
    """
    import tensorflow as tf

    from dermserve.contract import CardError
    from dermserve.models.graph import Weights
    from dermserve.models.lifecycle.errors import LifecycleError
    from dermserve.models.training.errors import TrainingError
    from dermserve.models.training.export.content import run_content
    from dermserve.models.verify import VerificationError
    from dermserve.models.version import write_version

    tf.get_logger().setLevel(logging.ERROR)
    try:
        return write_version(dataclasses.replace(run_content(run), weights=Weights(graph)), store, sign=sign)
    except (TrainingError, CardError, VerificationError, LifecycleError) as error:
        raise ExportError(str(error)) from error


def _initialization(weights: pathlib.Path | None, backbone: pathlib.Path | str | None, seed: int) -> str:
    if weights is not None:
        return f"file {weights.name}"
    if backbone is not None:
        name = backbone if isinstance(backbone, str) else f"file {backbone.name}"
        return f"backbone {name}, head random (seed {seed})"
    return f"random (seed {seed})"
