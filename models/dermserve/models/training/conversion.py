"""Convert a run: compact weights (`pack`), and a TensorFlow Lite model for phones, in float16 (`tflite`).

Compact kernels are float16, or int8 with a scale for each output channel (Jacob et al., CVPR 2018), until loaded.
"""

import functools
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.contract import Input, Output, Signature
from dermserve.models.catalogue import SPECS
from dermserve.models.durable import replacing
from dermserve.models.folding import fold_batch_norm
from dermserve.models.graph import FeatureDistance, freeze, scored
from dermserve.models.records import LABELS, SOURCE, source_digest, with_files
from dermserve.models.training.data.splits import Part
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.fitting import ood_scores, softmax
from dermserve.models.training.evaluate.predictions import Predictor
from dermserve.models.training.terminal import track
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.dataset import finished_data
from dermserve.models.training.train.finished import FULL, TFLITE, FinishedRun, Kind, load_weights, save_weights

_OUTPUTS = (Output.PROBABILITIES.value, Output.OOD_SCORE.value)
_KINDS: Mapping[str, Kind] = {"resnet50": "int8", "mobilenet_v3_small": "float16"}  # for the latter int8 is too coarse


def pack(run: FinishedRun, data: Path, *, cache: Path) -> dict[str, Any]:
    """Write a run's compact weights, measure them on validation photos, and remove its calibration."""
    photos = finished_data(run, data, cache=cache).part(Part.VALIDATION)
    kind, kept, full = _KINDS[run.model], run.folder / FULL, build_network(run.experiment)
    if not kept.is_file():
        if "packed" in run.summary:
            raise RunError(f"{run.folder} is packed, and lacks its full weights, {FULL}")
        with replacing(kept) as partial:
            shutil.copyfile(run.weights, partial)
    load_weights(full, kept)
    run.update(calibration=None)  # before the weights change: the command may be interrupted
    save_weights(full, run.weights, kind=kind)
    answers = []
    for name, network in (("full", full), ("compact", run.network(shifted=False))):
        answers.append(Predictor(network=network, cache=cache).predict(photos, name).logits[:, 0].argmax(axis=1))
    packed = {
        "kind": kind,
        "bytes": run.weights.stat().st_size,
        "accuracy_full": float((answers[0] == photos.labels).mean()),
        "accuracy_compact": float((answers[1] == photos.labels).mean()),
        "agreement": float((answers[0] == answers[1]).mean()),
    }
    run.update(packed=packed)
    return packed


def convert(network: keras.Model, *, temperature: float, distance: FeatureDistance | None = None) -> bytes:
    """Convert to TensorFlow Lite: `images` uint8 [1, S, S, 3] → `probabilities` [1, C] and `ood_score` [1]."""
    side = network.inputs[0].shape[1]
    # Frozen first: the converter leaves a Keras 3 model's variables in the graph, uninitialised.
    core = freeze(fold_batch_norm(network), functools.partial(scored, temperature=temperature, distance=distance))

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.uint8, name=Input.IMAGES)], autograph=False)
    def infer(images: Any) -> dict[str, Any]:
        return {name: value for name, value in core(images).items() if name in _OUTPUTS}

    module = tf.Module()
    module.core = core.tracked  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uint8 inputs have no statistics
        try:
            tf.saved_model.save(module, folder, signatures=infer.get_concrete_function())
        except tf.errors.OpError as error:
            raise OSError(f"{folder}: {error.message}") from error
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        model = converter.convert()
    labels = "".join(f"{item.code}\n" for item in SPECS[network.name].classes)
    source = source_digest(network, temperature=temperature, distance=distance)
    return with_files(model, {LABELS: labels, SOURCE: source})


def runner(model: bytes) -> Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]:
    """Load a model as a function of a photo, uint8 [S, S, 3], that gives `probabilities` [1, C] and `ood_score` [1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter will move to another package
        interpreter = tf.lite.Interpreter(model_content=model, num_threads=2)
    ask = interpreter.get_signature_runner(Signature.SERVING_DEFAULT.value)
    return lambda pixels: ask(images=pixels[np.newaxis])


def convert_run(run: FinishedRun, data: Path, *, cache: Path) -> dict[str, float]:
    """Write a calibrated run's model.tflite, and compare it with the network on validation photos."""
    calibration, distance, network = run.calibration, run.distance, run.network()
    photos = finished_data(run, data, cache=cache).part(Part.VALIDATION)
    temperature = calibration["temperature"]
    outputs = Predictor(network=network, cache=cache).predict(photos, "network")
    expected, expected_scores = softmax(outputs.logits[:, 0] / temperature), ood_scores(distance, outputs.features)
    model = convert(network, temperature=temperature, distance=distance)
    ask, answers, times = runner(model), [], []
    for row in track(photos.rows.tolist(), "model.tflite"):
        started = time.perf_counter()
        answers.append(ask(np.asarray(photos.images[row])))
        times.append(time.perf_counter() - started)
    found, scores = (np.concatenate([answer[name] for answer in answers]) for name in _OUTPUTS)
    limits = [calibration[name] for name in ("max_ood_score", "max_scope_score") if name in calibration]
    top, beyond = found.argmax(axis=1), np.asarray(limits)[:, np.newaxis]
    compared = {
        "bytes": len(model),
        "agreement": float((top == expected.argmax(axis=1)).mean()),
        "gate_agreement": float(((scores > beyond) == (expected_scores > beyond)).all(axis=0).mean()),
        "accuracy": float((top == photos.labels).mean()),
        "largest_difference": float(np.abs(found - expected).max()),
        "milliseconds": float(np.median(times) * 1000),
    }
    with replacing(run.folder / TFLITE) as partial:
        partial.write_bytes(model)
    run.update(tflite=compared)
    return compared
