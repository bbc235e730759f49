"""Warm-up records: what TensorFlow Serving replays when it loads a version, so that no user waits for the first answer.

https://www.tensorflow.org/tfx/serving/saved_model_warmup. TensorFlow optimises a graph once for each set of outputs
asked for, and the records ask for what the gateway asks for: all of them (no output_filter), with one view and with
ten, the views made in graph, and the card; and for `encoded`, which others call.
"""

import pathlib
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from dermserve.contract import Input, Signature

BATCH_SIZES = (1, 10)
_FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")


def write_warmup_records(version_folder: pathlib.Path, *, model: str, side: int) -> None:
    """Write the warm-up records of a version.

    Args:
        version_folder: holds the SavedModel.
        model: model name.
        side: height and width of the input in pixels.
    """
    file = version_folder / _FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for size in BATCH_SIZES:
            gray = tf.fill([size, side, side, 3], tf.constant(127, tf.uint8))
            writer.write(_record(model, Signature.SERVING_DEFAULT, {Input.IMAGES: gray}))
        one = tf.fill([1, side, side, 3], tf.constant(127, tf.uint8))
        writer.write(_record(model, Signature.TTA, {Input.IMAGES: one}))
        files = tf.io.encode_png(one)
        writer.write(_record(model, Signature.ENCODED, {Input.IMAGE_BYTES: files}))
        writer.write(_record(model, Signature.DESCRIBE, {Input.QUERY: tf.constant([""])}))


def _record(model: str, signature: Signature, inputs: dict[str, Any]) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    record: bytes = log.SerializeToString()
    return record
