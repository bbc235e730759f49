"""Convert a run: compact weights (`pack`), and TensorFlow Lite models for phones (`tflite`).

Compact weights have kernels as int8 or float16, and vectors as float32. int8 is symmetric with a scale for each output
channel (Jacob et al., CVPR 2018), of the weights only: they are loaded as float32.

A TensorFlow Lite model gives probabilities and the out-of-distribution score. Labels, and in a version the card, are
files inside (`dermserve.models.associated_files`).
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema_fb
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dermserve.contract import Input, Output, Signature
from dermserve.models.associated_files import LABELS, SOURCE, source_digest, with_files
from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance, scored
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part
from dermserve.models.training.evaluate import ood
from dermserve.models.training.evaluate.calibration import softmax
from dermserve.models.training.evaluate.predictions import ONE_VIEW, Predictor
from dermserve.models.training.train.dataset import finished_data
from dermserve.models.training.train.finished import FinishedRun, Kind, save_compact
from dermserve.models.training.train.loop import Progress
from dermserve.models.training.train.network import training_copy

KINDS: tuple[Kind, ...] = ("float16", "int8")
SHIPPED: Kind = "float16"
"""The one that becomes a version's model.tflite."""

# The first operations that int8 leaves in float. ResNet-50: cast, BGR, means and padding, because TensorFlow quantises
# the conversion to BGR wrongly (70 % of answers were the network's). MobileNetV3Small: up to the end of the first
# block, which amplifies the rounding of the first convolution 70 times. Everything from the pooled features on stays
# in float too.
_FIRST_IN_FLOAT = {"resnet50": 4, "mobilenet_v3_small": 12}
# A tensor that is always near zero (a layer that learned nothing) gets this range: XNNPACK refuses scales near zero.
_DEAD, _LEAST_RANGE = 1e-6, 1e-3
_OUTPUTS = (Output.PROBABILITIES.value, Output.OOD_SCORE.value)
_THREADS = 2
_EXAMPLES = 200  # training photos from which int8 takes its ranges


def pack(run: FinishedRun, data: Path, *, kind: Kind, cache: Path, progress: Progress) -> dict[str, Any]:
    """Write a run's compact weights, and compare them with the full ones on validation photos, one view each.

    The run then uses the compact weights, and its calibration is removed: evaluate it again.

    Returns:
        JSON values: bytes, accuracy before and after, and the share of equal answers; also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
    """
    chosen = finished_data(run.experiment, data, run.split, cache=cache)
    photos = chosen.part(Part.VALIDATION)
    full = run.network(full=True)
    run.update(calibration=None)  # before the weights change: the command may be interrupted
    save_compact(full, run.compact, kind=kind)
    answers = []
    for name, network in (("full", full), ("compact", run.network())):
        predictor = Predictor(network=network, cache=cache, progress=progress)
        found = predictor.predict(photos, chosen.samples, name, views=ONE_VIEW)
        answers.append(found.logits[:, 0].argmax(axis=1))
    packed = {
        "kind": kind,
        "bytes": run.compact.stat().st_size,
        "accuracy_full": float((answers[0] == photos.labels).mean()),
        "accuracy_compact": float((answers[1] == photos.labels).mean()),
        "agreement": float((answers[0] == answers[1]).mean()),
    }
    run.update(packed=packed)
    return packed


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's outputs for photos: calibrated probabilities, float32 [N, C], and scores, float32 [N]."""

    probabilities: NDArray[np.float32]
    ood_scores: NDArray[np.float32]


def convert(
    network: keras.Model,
    *,
    temperature: float,
    kind: Kind,
    examples: NDArray[np.uint8],
    distance: FeatureDistance | None = None,
) -> bytes:
    """Convert a network to TensorFlow Lite.

    `temperature` and `distance` are as for graph.freeze_core. float16 converts the weights; int8 weights and
    activations except at both ends, with ranges from the examples, photos uint8 [N, S, S, 3].

    Returns:
        The file. Its signature `serving_default` takes `images` uint8 [1, S, S, 3] RGB, and gives `probabilities`
        float32 [1, C] and `ood_score` float32 [1].
    """
    folded = training_copy(network, folded=True, precision="float32")
    side = network.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.uint8, name="images")])
    def infer(images: Any) -> dict[str, Any]:
        outputs = folded(tf.cast(images, tf.float32), training=False)
        answer = scored(outputs, temperature=temperature, distance=distance)
        return {name: answer[name] for name in _OUTPUTS}

    # Frozen first: the converter leaves a Keras 3 model's variables in the graph, uninitialised.
    frozen = convert_variables_to_constants_v2(infer.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.representative_dataset = lambda: ([example[np.newaxis]] for example in examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uint8 inputs have no statistics
        model = _quantise(converter, _FIRST_IN_FLOAT[network.name]) if kind == "int8" else converter.convert()
    labels = "".join(f"{item.code}\n" for item in SPECS[network.name].classes)
    source = source_digest(network, temperature=temperature, distance=distance)
    return with_files(_named(model), {LABELS: labels, SOURCE: source})


def _named(model: bytes) -> bytes:
    """Give tensors the contract's names, add a signature, and put the probabilities first.

    The converter calls outputs Identity, in the order of their names.
    """
    content = flatbuffer_utils.convert_bytearray_to_object(model)
    graph, signature = content.subgraphs[0], schema_fb.SignatureDefT()
    by_name = dict(zip(sorted(_OUTPUTS), graph.outputs, strict=True))
    graph.outputs = [by_name[name] for name in _OUTPUTS]
    signature.signatureKey, signature.subgraphIndex = Signature.SERVING_DEFAULT.value, 0
    signature.inputs = _maps(graph, {Input.IMAGES: graph.inputs[0]})
    signature.outputs = _maps(graph, by_name)
    content.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(content))


def _maps(graph: Any, tensors: Mapping[str, int]) -> list[Any]:
    found = []
    for name, index in tensors.items():
        graph.tensors[index].name = name.encode()
        found.append(schema_fb.TensorMapT())
        found[-1].name, found[-1].tensorIndex = name, index
    return found


def _quantise(converter: Any, first: int) -> bytes:
    """Convert with int8 activations from operation number `first` up to the pooled features.

    tf.lite.experimental.QuantizationDebugger has a denylist for this, but needs an interpreter that XNNPACK refuses.
    """
    converter._experimental_calibrate_only = True
    model = flatbuffer_utils.convert_bytearray_to_object(converter.convert())
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        seen = tensor.quantization
        if seen is not None and seen.max is not None and np.ptp([*seen.min, *seen.max]) < _DEAD:
            seen.max = seen.min + _LEAST_RANGE
    names = [graph.tensors[operation.outputs[0]].name.decode() for operation in graph.operators]
    codes = [model.operatorCodes[operation.opcodeIndex] for operation in graph.operators]
    mean = schema_fb.BuiltinOperator.MEAN
    pooled = max(index for index, code in enumerate(codes) if mean in (code.builtinCode, code.deprecatedBuiltinCode))
    calibrated = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    quantised: bytes = mlir_quantize(calibrated, denylisted_nodes=names[:first] + names[pooled:])
    return quantised


def runner(model: bytes) -> Callable[[NDArray[np.uint8]], Answers]:
    """Load a model into an interpreter. Returns a function of one photo, uint8 [S, S, 3]."""
    try:
        interpreter = _interpreter(model, tf.lite.experimental.OpResolverType.AUTO)
    except RuntimeError:  # XNNPACK refuses the scales of channels that are nearly zero
        interpreter = _interpreter(model, tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    ask = interpreter.get_signature_runner(Signature.SERVING_DEFAULT.value)

    def run(pixels: NDArray[np.uint8]) -> Answers:
        found = ask(images=pixels[np.newaxis])
        return Answers(found[Output.PROBABILITIES], found[Output.OOD_SCORE])

    return run


def _interpreter(model: bytes, resolver: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter will move to another package
        interpreter = tf.lite.Interpreter(
            model_content=model, num_threads=_THREADS, experimental_op_resolver_type=resolver
        )
    interpreter.allocate_tensors()
    return interpreter


def convert_run(run: FinishedRun, data: Path, *, cache: Path, progress: Progress) -> dict[str, Any]:
    """Convert a calibrated run to each kind, and compare each with the network on validation photos.

    The files are RUN/model-KIND.tflite, and RUN/model.tflite for the shipped kind.

    Returns:
        JSON values by kind, also in run.json: bytes, agreement (share of equal answers), gate_agreement (share of
        photos on the same side of the card's limits on the score), accuracy, largest_difference (of a probability),
        milliseconds (median for a photo on this machine).
    """
    chosen = finished_data(run.experiment, data, run.split, cache=cache)
    training, validation = chosen.part(Part.TRAIN).thinned(_EXAMPLES), chosen.part(Part.VALIDATION)
    network, distance, calibration = run.network(), run.distance, run.calibration
    temperature = calibration["temperature"]
    predictor = Predictor(network=network, cache=cache, progress=progress)
    outputs = predictor.predict(validation, chosen.samples, "network", views=ONE_VIEW)
    expected = Answers(
        softmax(outputs.logits[:, 0] / temperature).astype(np.float32), ood.scores(distance, outputs.features)
    )
    limits = [calibration[name] for name in ("max_ood_score", "max_scope_score") if name in calibration]
    examples, found = np.asarray(training.images[training.rows]), dict[str, Any]()
    for kind in KINDS:
        model = convert(network, temperature=temperature, kind=kind, examples=examples, distance=distance)
        (run.folder / f"model-{kind}.tflite").write_bytes(model)
        found[kind] = {"bytes": len(model), **_compare(model, validation, expected, limits, kind, progress)}
    (run.folder / f"model-{SHIPPED}.tflite").replace(run.tflite)
    run.update(tflite=found)
    return found


def _compare(
    model: bytes, photos: Labelled, expected: Answers, limits: Sequence[float], kind: str, progress: Progress
) -> dict[str, float]:
    run, answers, times = runner(model), [], []
    for index, row in enumerate(photos.rows):
        started = time.perf_counter()
        answers.append(run(np.asarray(photos.images[row])))
        times.append(time.perf_counter() - started)
        progress(kind, index + 1, len(photos))
    found = np.concatenate([answer.probabilities for answer in answers])
    scores = np.concatenate([answer.ood_scores for answer in answers])
    top, beyond = found.argmax(axis=1), np.asarray(limits)[:, np.newaxis]
    return {
        "agreement": float((top == expected.probabilities.argmax(axis=1)).mean()),
        "gate_agreement": float(((scores > beyond) == (expected.ood_scores > beyond)).all(axis=0).mean()),
        "accuracy": float((top == photos.labels).mean()),
        "largest_difference": float(np.abs(found - expected.probabilities).max()),
        "milliseconds": float(np.median(times) * 1000),
    }
