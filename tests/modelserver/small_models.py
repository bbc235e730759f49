"""Writes the models that the tests without recordings serve. A process of its own: it imports TensorFlow."""

import pathlib
import sys

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

BASE = pathlib.Path(sys.argv[1])
FLOATS = ["float32", "float64", "float16", "bfloat16", "complex64", "complex128"]
DTYPES = [*FLOATS, "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "string"]


class Line(tf.Module):
    """y = x × slope + 2; the slope is the version."""

    def __init__(self, slope: float) -> None:
        self.slope = tf.Variable(slope, name="slope")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def line(self, x):
        return {"y": x * self.slope + 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
    def describe(self, query):
        return {"card": tf.fill(tf.shape(query), '{"model": "line"}')}


def echo(name: str):
    dtype = tf.as_dtype(name)

    @tf.function(input_signature=[tf.TensorSpec([None], dtype, name="x")])
    def echo_one(x):
        return {"x": tf.identity(x)}

    return echo_one


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
def slow(x):
    """A third of a second of work in many small steps, so that it can be interrupted."""
    start = tf.fill([400, 400], tf.reduce_sum(x) * 1e-9)
    _, end = tf.while_loop(lambda i, m: i < 150, lambda i, m: (i + 1, tf.tanh(m @ m)), (0, start))
    return {"y": x + tf.reduce_sum(end) * 0.0}


def save_lines() -> None:
    for version in (1, 2, 3):
        module = Line(float(version))
        signatures = {"serving_default": module.line, "describe": module.describe}
        tf.saved_model.save(module, str(BASE / "line" / str(version)), signatures=signatures)


def save_echo() -> None:
    module = tf.Module()
    module.functions = {name: echo(name) for name in DTYPES}
    tf.saved_model.save(module, str(BASE / "echo" / "1"), signatures=module.functions)


def save_slow() -> None:
    module = tf.Module()
    module.slow = slow
    tf.saved_model.save(module, str(BASE / "slow" / "1"), signatures={"serving_default": slow})


def save_defaults() -> None:
    """A graph of TensorFlow 1, with a default for its input, two names for one output, and wrong ones."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.add(x, 1.0, name="y")
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y), "again": info(y)}, "any")
        signature.defaults["x"].CopyFrom(tf.make_tensor_proto([41.0]))
        lost = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "any")
        lost.inputs["x"].name = "lost:0"
        gone = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "any")
        gone.outputs["y"].name = "y:7"
        builder = v1.saved_model.builder.SavedModelBuilder(str(BASE / "defaults" / "1"))
        signatures = {"serving_default": signature, "lost": lost, "gone": gone}
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def save_warm() -> None:
    module = Line(5.0)
    folder = BASE / "warm" / "1"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.line})
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "warm"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([0.5] * 1000))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())
        writer.write(prediction_log_pb2.PredictionLog(regress_log=prediction_log_pb2.RegressLog()).SerializeToString())


@tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
def picky(x):
    return {"y": tf.ensure_shape(x, [None, 4])}


def save_picky() -> None:
    module = tf.Module()
    module.picky = picky
    tf.saved_model.save(module, str(BASE / "picky" / "1"), signatures={"serving_default": picky})


save_lines()
save_echo()
save_slow()
save_defaults()
save_warm()
save_picky()
