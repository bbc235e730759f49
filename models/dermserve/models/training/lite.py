"""TensorFlow Lite models of a run, for phones: uint8 photo in, calibrated probabilities out, labels inside.

The labels lie in labels.txt in a zip archive appended to the model, where TFLite's own metadata tools put and look for
associated files (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata).
"""

import io
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dermserve.models.catalogue import SPECS
from dermserve.models.training.calibration import softmax
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.loop import Labelled, Progress
from dermserve.models.training.network import training_copy
from dermserve.models.training.predict import predict

Kind: TypeAlias = Literal["float16", "int8", "dynamic"]
KINDS: tuple[Kind, ...] = ("float16", "dynamic", "int8")
SHIPPED: Kind = "float16"
"""Which of them goes into the version directory as model.tflite."""

_IN_FLOAT: Mapping[str, tuple[int, int]] = MappingProxyType({"resnet50": (4, 4), "mobilenet_v3_small": (12, 4)})
"""How many operations at either end of a network the int8 kind leaves in float, by model.

At the end the mean, the dense layers and the softmax. At the beginning, of ResNet-50 the cast, the change to BGR, the
means and the padding: TensorFlow quantises the change to BGR wrongly (the answer was that of the network for 70 % of
test photos). Of MobileNetV3Small all up to the end of its first block, which amplifies what rounding does to its first
convolution 70 times.
"""
_DEAD, _LEAST_RANGE = 1e-6, 1e-3
"""What hardly leaves zero (a layer that learned nothing) gets this range: XNNPACK refuses scales that are near zero."""
_THREADS = 2


def convert(network: keras.Model, *, temperature: float, kind: Kind, examples: NDArray[np.uint8]) -> bytes:
    """Convert a network to TensorFlow Lite.

    Args:
        network: what architectures.build returns.
        temperature: the logits are divided by it.
        kind: "float16" weights; "int8" weights and activations but for both ends, with ranges from the examples; or
            "dynamic": int8 weights, and activations quantised as they come.
        examples: uint8 [N, S, S, 3], photos to take the range of activations from; for int8 alone.

    Returns:
        The file: one uint8 [1, S, S, 3] RGB in, one float32 [1, C] out.
    """
    folded = training_copy(network, folded=True, precision="float32")
    side = network.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.uint8, name="images")])
    def infer(images: Any) -> dict[str, Any]:
        logits = folded(tf.cast(images, tf.float32), training=False)["logits"]
        return {"probabilities": tf.nn.softmax(logits / temperature)}

    # Frozen first: the converter leaves a Keras 3 model's variables in the graph, uninitialised.
    frozen = convert_variables_to_constants_v2(infer.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif kind == "int8":
        converter.representative_dataset = lambda: _one_by_one(examples)
    labels = [item.code for item in SPECS[network.name].classes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inputs that stay uint8, for which no statistics are asked
        model = _quantise(converter, *_IN_FLOAT[network.name]) if kind == "int8" else converter.convert()
        return with_labels(model, labels)


def _quantise(converter: Any, first: int, last: int) -> bytes:
    """Convert with int8 activations between the first so many operations and the last.

    As tf.lite.experimental.QuantizationDebugger does it for its denylist, which it can't without an interpreter that
    XNNPACK refuses (see `runner`).
    """
    converter._experimental_calibrate_only = True
    model = flatbuffer_utils.convert_bytearray_to_object(converter.convert())
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        seen = tensor.quantization
        if seen is not None and seen.max is not None and np.ptp([*seen.min, *seen.max]) < _DEAD:
            seen.max = seen.min + _LEAST_RANGE
    names = [graph.tensors[operation.outputs[0]].name.decode() for operation in graph.operators]
    calibrated = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    quantised: bytes = mlir_quantize(calibrated, denylisted_nodes=names[:first] + names[-last:])
    return quantised


def with_labels(model: bytes, labels: list[str]) -> bytes:
    """Append a zip archive with labels.txt, a label a line, to a model."""
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt"), "\n".join(labels) + "\n")
    return file.getvalue()


def read_labels(model: bytes) -> list[str]:
    """Read the labels of a model."""
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return archive.read("labels.txt").decode().split()


def runner(model: bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Load a model into an interpreter: uint8 [S, S, 3] → float32 [C]."""
    try:
        interpreter = _interpreter(model, tf.lite.experimental.OpResolverType.AUTO)
    except RuntimeError:  # XNNPACK refuses scales beyond its range, which channels that are nearly zero have
        interpreter = _interpreter(model, tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    (entry,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(entry["index"], pixels[np.newaxis])
        interpreter.invoke()
        found: NDArray[np.float32] = interpreter.get_tensor(answer["index"])[0]
        return found

    return run


def _interpreter(model: bytes, resolver: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow announces that its interpreter will move to another package
        interpreter = tf.lite.Interpreter(
            model_content=model, num_threads=_THREADS, experimental_op_resolver_type=resolver
        )
    interpreter.allocate_tensors()
    return interpreter


def convert_run(
    run: FinishedRun, training: Labelled, validation: Labelled, *, progress: Progress, examples: int = 200
) -> dict[str, Any]:
    """Convert a run in every way, compare each with the network on validation photos, and keep the shipped one.

    Args:
        run: calibrated.
        training: photos to take int8 ranges from.
        validation: photos to compare on; what is chosen by them must not test.
        progress: called with what is going on, photos done and photos in all.
        examples: how many training photos the int8 conversion looks at.

    Returns:
        JSON values by kind: bytes, agreement (share of equal answers), accuracy, milliseconds (median of one photo on
        this machine); also in run.json. The files are RUN/model-KIND.tflite, and RUN/model.tflite the shipped kind.
    """
    network, temperature = run.network(), run.calibration["temperature"]
    rows = training.thinned(examples).rows
    expected = predict(network, validation, views=("identity",)).logits[:, 0]
    found: dict[str, Any] = {}
    for kind in KINDS:
        model = convert(network, temperature=temperature, kind=kind, examples=np.asarray(training.images[rows]))
        (run.folder / f"model-{kind}.tflite").write_bytes(model)
        found[kind] = {
            "bytes": len(model),
            **_compare(model, validation, softmax(expected / temperature), kind, progress),
        }
    (run.folder / f"model-{SHIPPED}.tflite").replace(run.tflite)
    run.update(tflite=found)
    return found


def _compare(
    model: bytes, photos: Labelled, expected: NDArray[np.float64], kind: str, progress: Progress
) -> dict[str, float]:
    run, answers, times = runner(model), [], []
    for index, row in enumerate(photos.rows):
        started = time.perf_counter()
        answers.append(run(np.asarray(photos.images[row])))
        times.append(time.perf_counter() - started)
        progress(kind, index + 1, len(photos))
    found = np.asarray(answers)
    top = found.argmax(axis=1)
    return {
        "agreement": float((top == expected.argmax(axis=1)).mean()),
        "accuracy": float((top == photos.labels).mean()),
        "largest_difference": float(np.abs(found - expected).max()),
        "milliseconds": float(np.median(times) * 1000),
    }


def _one_by_one(examples: NDArray[np.uint8]) -> Iterator[list[NDArray[np.uint8]]]:
    for example in examples:
        yield [example[np.newaxis]]
