"""Writes the small models that were served when the cases in recordings/ were recorded, and others that tests serve.

Names are those of the recording: they are in its messages. `python served_models.py FOLDER` writes them for a server.
"""

import pathlib
import sys

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

v1 = tf.compat.v1
EXAMPLES = [tf.TensorSpec([None], tf.string, name="inputs")]
DTYPES = ["float32", "float64", "float16", "bfloat16", "complex64", "complex128", "bool", "int8", "uint8", "int16",
          "uint16", "int32", "uint32", "int64", "uint64", "string"]  # fmt: skip
PICTURES = [tf.TensorSpec([None, 224, 224, 3], tf.uint8, name="image")]


def floats(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.float32, name=name)


def parse(inputs):
    return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]


class HalfPlusTwo(tf.Module):
    def __init__(self, version: int) -> None:
        self.a = tf.Variable(version / 2.0, name="a")
        self.b = tf.Variable(2.0, name="b")

    @tf.function(input_signature=[floats("x")])
    def predict(self, x):
        return {"y": x * self.a + self.b}

    @tf.function(input_signature=[floats("x"), floats("x2")])
    def two(self, x, x2):
        return {"sum": x + x2 * self.a, "diff": x - x2, "n": tf.shape(x)[0]}

    @tf.function(input_signature=EXAMPLES)
    def regress(self, inputs):
        return {"outputs": parse(inputs) * self.a + self.b}

    @tf.function(input_signature=EXAMPLES)
    def classify(self, inputs):
        x = parse(inputs)
        scores = tf.concat([x * self.a + self.b, x], 1)
        return {"scores": scores, "classes": tf.tile(tf.constant([["a", "b"]]), [tf.shape(scores)[0], 1])}


class Image(tf.Module):
    def __init__(self) -> None:
        self.w = tf.Variable(tf.random.stateless_normal([3, 5], [1, 2]))

    @tf.function(input_signature=PICTURES)
    def predict(self, image):
        logits = tf.reduce_mean(tf.cast(image, tf.float32) / 255.0, [1, 2]) @ self.w
        return {"logits": logits, "probabilities": tf.nn.softmax(logits), "label": tf.argmax(logits, -1)}

    @tf.function(input_signature=PICTURES)
    def embed(self, image):
        return {"embedding": tf.reduce_mean(tf.cast(image, tf.float32) / 255.0, [1, 2])}


class Slow(tf.Module):
    @tf.function(input_signature=[floats("x")])
    def predict(self, x):
        """Burns a quarter of a second or so of a core."""
        count = tf.shape(x)[0]
        start = tf.fill([600, 600], tf.reduce_sum(x) * 1e-9)
        _, end = tf.while_loop(lambda i, m: i < 60, lambda i, m: (i + 1, tf.tanh(m @ m)), (0, start))
        return {"y": x + tf.reduce_sum(end) * 0.0, "batch": tf.fill([count], count)}


def save(module: tf.Module, folder: pathlib.Path, version: int = 1, **signatures: object) -> None:
    found = {signature: getattr(module, to) if isinstance(to, str) else to for signature, to in signatures.items()}
    tf.saved_model.save(module, str(folder / str(version)), signatures=found)


def save_tf1(folder: pathlib.Path) -> None:
    """A graph of TensorFlow 1, with the method names of Classify and Regress."""
    utils = v1.saved_model.utils
    build = v1.saved_model.signature_def_utils.build_signature_def
    with tf.Graph().as_default(), v1.Session() as session:
        a, b = v1.get_variable("a", initializer=0.5), v1.get_variable("b", initializer=2.0)
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        x = tf.identity(parse(serialized), name="x")
        y = tf.add(a * x, b, name="y")
        scores = tf.concat([y, x], 1, name="scores")
        classes = tf.tile(tf.constant([["a", "b"]]), [tf.shape(scores)[0], 1], name="classes")
        info = {
            name: utils.build_tensor_info(tensor)
            for name, tensor in (("inputs", serialized), ("outputs", y), ("scores", scores), ("classes", classes))
        }
        given = {"inputs": info["inputs"]}
        regress, classify = "tensorflow/serving/regress", "tensorflow/serving/classify"
        both = {name: info[name] for name in ("scores", "classes")}
        signatures = {
            "serving_default": v1.saved_model.signature_def_utils.predict_signature_def({"x": x}, {"y": y}),
            "regress_x_to_y": build(given, {"outputs": info["outputs"]}, regress),
            "classify_x": build(given, both, classify),
            "classify_scores_only": build(given, {"scores": info["scores"]}, classify),
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def echo(name: str):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.as_dtype(name), name="x")])
    def echo_one(x):
        return {"x": tf.identity(x)}

    return echo_one


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
def describe(query):
    return {"card": tf.fill(tf.shape(query), '{"model": "echo"}')}


@tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
def picky(x):
    return {"y": tf.ensure_shape(x, [None, 4])}


def save_functions(folder: pathlib.Path, **functions: object) -> None:
    module = tf.Module()
    module.functions = functions
    save(module, folder, **functions)


def save_defaults(folder: pathlib.Path) -> None:
    """A graph of TensorFlow 1, with a default for its input, two names for one output, and wrong ones."""
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
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder / "1"))
        signatures = {"serving_default": signature, "lost": lost, "gone": gone}
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def add_warm_up(model: pathlib.Path) -> None:
    """Give a model three records of Predict, and one of another call."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model.name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([0.5] * 1000))
    logs = [prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))] * 3
    logs.append(prediction_log_pb2.PredictionLog(regress_log=prediction_log_pb2.RegressLog()))
    folder = model / "1" / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def write(base: pathlib.Path) -> None:
    """Write all of them, a folder a model."""
    for number in (1, 2, 3):
        save(
            HalfPlusTwo(number), base / "half_plus_two", number,
            serving_default="predict", two="two", regress_x_to_y="regress", classify_x="classify",
        )  # fmt: skip
    save_tf1(base / "tf1_hpt")
    save(Image(), base / "image", serving_default="predict", embed="embed")
    save(Slow(), base / "slow", serving_default="predict")
    save_functions(base / "echo", describe=describe, **{name: echo(name) for name in DTYPES})
    save_functions(base / "picky", serving_default=picky)
    save_defaults(base / "defaults")
    save(HalfPlusTwo(5), base / "warm", serving_default="predict")
    add_warm_up(base / "warm")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
