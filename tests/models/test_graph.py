"""The served graph, through the session loader that TensorFlow Serving uses."""

import io
import os
import pathlib
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from dermserve.contract import parse_card
from dermserve.imaging import STANDARD_VIEWS, decode
from dermserve.models import exporter
from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.folding import fold_batch_norm
from dermserve.models.graph import FeatureDistance, freeze_core
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.records import read_file
from dermserve.models.verify import LoadedVersion, VerificationError, open_version
from dermserve.v1 import card_pb2
from tests.models.networks import disturb_batch_norm
from tests.tiny import tiny_network

PARAMETERS = {"resnet50": (25_693_063, 23_587_712), "mobilenet_v3_small": (1_089_907, 939_120)}
"""Of the network and its backbone, as in the papers."""


@pytest.fixture(scope="module", params=list(SPECS))
def served(request: pytest.FixtureRequest, store: pathlib.Path) -> Iterator[LoadedVersion]:
    with open_version(store / request.param / "1") as version:
        yield version


def _card(version: LoadedVersion) -> card_pb2.Card:
    return parse_card(version("describe", {"query": np.array([b""], object)})["card"][0])


@pytest.fixture(scope="module")
def pixels(photo: bytes) -> NDArray[np.uint8]:
    return decode(photo, height=224, width=224)


def test_random_weights_as_variables_give_the_frozen_graphs_answers_and_are_on_disk_once(
    tmp_path: pathlib.Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mobilenet_v3_small"
    monkeypatch.setattr(exporter, "build", tiny_network)
    exporter.export(name, tmp_path, graph="folded-variables")
    keras.utils.set_random_seed(0)
    network = tiny_network(name)
    expected = freeze_core(network)(tf.constant(pixels[np.newaxis]))
    with open_version(tmp_path / name / "1") as variables:
        assert _card(variables).provenance.initialization == "random (seed 0)"
        found = variables("serving_default", {"images": pixels[np.newaxis]})
    for output, value in expected.items():
        np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-5)
    weights = next((tmp_path / name / "1" / "variables").glob("*.data-*")).stat().st_size
    assert weights == pytest.approx(4 * network.count_params(), rel=0.05)


@pytest.mark.parametrize("name", list(SPECS))
def test_folding_batch_norm_changes_nothing_but_the_graph(name: str) -> None:
    network = build(name)
    backbone = network.get_layer("backbone")
    assert (network.count_params(), backbone.count_params()) == PARAMETERS[name]
    disturb_batch_norm(network)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    expected = network(images, training=False)
    for fusible in (False, True):
        folded = fold_batch_norm(network, fusible=fusible)
        actual = folded(images, training=False)
        for output in ("logits", "features"):
            scale = np.abs(expected[output]).max()
            np.testing.assert_allclose(actual[output] / scale, expected[output] / scale, atol=1e-5)
        left = Counter(type(layer) for layer in folded.get_layer("backbone").layers)
        assert left[keras.layers.BatchNormalization] == 0
    # Fusible, padding that "same" would add goes, and other padding stays.
    assert left[keras.layers.ZeroPadding2D] == {"mobilenet_v3_small": 0, "resnet50": 2}[name]


_OPTIMISED = """
import sys
import numpy as np, tensorflow as tf
v1 = tf.compat.v1
session = v1.Session(graph=tf.Graph())
with session.graph.as_default():
    signature = v1.saved_model.load(session, ["serve"], sys.argv[1]).signature_def["serving_default"]
pixels, probabilities = signature.inputs["images"].name, signature.outputs["probabilities"].name
options, found = v1.RunOptions(output_partition_graphs=True), v1.RunMetadata()
session.run(probabilities, {pixels: np.zeros((1, 224, 224, 3), np.uint8)}, options=options, run_metadata=found)
nodes = [node for graph in found.partition_graphs for node in graph.node]
print(sum(b"_FusedHardSwish" in node.attr["fused_ops"].list.s for node in nodes))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN fuses this on x86 alone")
def test_the_served_hard_swish_is_computed_within_the_convolution(weights_store: pathlib.Path) -> None:
    # Of batch norm at its first values a bias of zero is optimised away, and then there is nothing to look for.
    done = subprocess.run(
        [sys.executable, "-c", _OPTIMISED, str(weights_store / "mobilenet_v3_small" / "2")],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["18"]


def test_the_metadata_names_sizes_and_the_batch_dimension_of_every_tensor(served: LoadedVersion) -> None:
    shapes = {
        (signature, name): [dim.size for dim in info.tensor_shape.dim]
        for signature in ("serving_default", "encoded", "tta", "describe")
        for tensors in (served.signatures[signature].inputs, served.signatures[signature].outputs)
        for name, info in tensors.items()
    }
    assert {sizes[0] for sizes in shapes.values()} == {-1}
    assert shapes["serving_default", "images"] == shapes["tta", "images"] == [-1, 224, 224, 3]


@pytest.mark.parametrize("asked", [("probabilities", "logits", "ood_score"), ("ood_score",)])
@pytest.mark.parametrize("signature", ["serving_default", "tta"])
def test_the_graph_refuses_images_of_another_size(
    served: LoadedVersion, signature: str, asked: tuple[str, ...]
) -> None:
    definition = served.signatures[signature]
    fetches = [definition.outputs[name].name for name in asked]
    for shape in (
        *((1, 10, 10, 3), (1, 224, 225, 3), (1, 223, 224, 3), (1, 224, 224, 1), (1, 224, 224, 4), (1, 448, 112, 3)),
        *((3, 10, 10, 3), (1, 0, 0, 3)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
            served.session.run(fetches, {definition.inputs["images"].name: np.zeros(shape, np.uint8)})
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        served.session.run(fetches, {definition.inputs["images"].name: np.zeros((224, 224, 3), np.uint8)})


@pytest.mark.parametrize("signature", ["serving_default", "tta"])
def test_no_images_are_refused_in_words(served: LoadedVersion, signature: str) -> None:
    with pytest.raises(VerificationError, match="at least one image"):
        served(signature, {"images": np.zeros((0, 224, 224, 3), np.uint8)})


def test_probabilities_sum_to_one_and_are_the_softmax_of_the_logits_at_the_cards_temperature(
    served: LoadedVersion, pixels: NDArray[np.uint8]
) -> None:
    outputs = served("serving_default", {"images": pixels[np.newaxis]})
    np.testing.assert_allclose(outputs["probabilities"].sum(-1), 1, atol=1e-5)
    softened = outputs["logits"] / _card(served).calibration.temperature
    np.testing.assert_allclose(tf.nn.softmax(softened), outputs["probabilities"], atol=1e-6)


def test_encoded_sees_what_the_gateway_sees(served: LoadedVersion, photo: bytes, pixels: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "PNG")
    files = np.array([photo, file.getvalue()], object)
    encoded = served("encoded", {"image_bytes": files})["probabilities"]
    expected = served("serving_default", {"images": pixels[np.newaxis]})["probabilities"]
    # TensorFlow resizes in float, the gateway in integers: a level of 255 here and there.
    np.testing.assert_allclose(encoded, np.repeat(expected, 2, 0), atol=0.03)


def test_the_card_describes_the_version_that_was_trained_and_calibrated(
    served: LoadedVersion, store: pathlib.Path
) -> None:
    card = _card(served)
    spec = SPECS[card.model]
    assert [info.code for info in card.classes] == [info.code for info in spec.classes]
    assert card.parameters == PARAMETERS[card.model][0]
    assert tuple(card.views) == STANDARD_VIEWS
    assert card.provenance.training == card_pb2.TRAINING_TRAINED
    assert len(card.weights_digest) == 64
    assert "NC" in card.provenance.license
    for threshold in ("min_confidence", "max_view_std", "adaptive_margin", "max_ood_score"):
        assert card.calibration.HasField(threshold), threshold
    assert card.calibration.min_confidence >= 0.5
    tflite = store / card.model / "1" / "model.tflite"
    if tflite.exists():
        assert parse_card(read_file(tflite.read_bytes(), "card.json") or "") == card


def test_a_version_holds_its_weights_once(store: pathlib.Path) -> None:
    size = sum(path.stat().st_size for path in (store / "resnet50" / "1").rglob("*") if path.is_file())
    assert size < 1.1 * 4 * PARAMETERS["resnet50"][0]


def _rows(request: Any) -> int:
    (tensor,) = request.inputs.values()
    return tf.make_ndarray(tensor).shape[0]


def test_warm_up_records_ask_every_signature_for_all_its_outputs(store: pathlib.Path) -> None:
    for model in SPECS:
        file = store / model / "1" / "assets.extra" / "tf_serving_warmup_requests"
        logs = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
        requests = [log.predict_log.request for log in logs]
        asked = [(request.model_spec.signature_name, _rows(request)) for request in requests]
        one_each = [("serving_default", 1), ("encoded", 1), ("tta", 1), ("describe", 1)]
        assert asked == [("serving_default", 10), *one_each]
        assert not any(request.output_filter for request in requests)
        assert {request.model_spec.name for request in requests} == {model}


@pytest.mark.parametrize("unit", [False, True])
def test_temperature_softens_and_feature_distance_scores(unit: bool) -> None:
    network = tiny_network("mobilenet_v3_small")
    rng = np.random.default_rng(0)
    logits = network.get_layer("logits")
    logits.set_weights([logits.get_weights()[0], np.array([1.0, 2.0, 3.0])])
    centers, projection = rng.normal(size=(3, 8)), rng.normal(size=(8, 8))
    distance = FeatureDistance(centers=centers.astype(np.float32), projection=projection.astype(np.float32), unit=unit)
    images = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    outputs = freeze_core(network, temperature=2.0, distance=distance)(tf.constant(images))
    raw = network(images.astype(np.float32), training=False)
    np.testing.assert_allclose(outputs["probabilities"], tf.nn.softmax(raw["logits"] / 2), atol=1e-5)
    features = np.asarray(raw["features"], np.float64)
    features = features / np.linalg.norm(features, axis=1, keepdims=True) if unit else features
    expected = [(((f - centers) @ projection) ** 2).sum(-1).min() for f in features]
    np.testing.assert_allclose(outputs["ood_score"], expected, rtol=1e-4)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "small.weights.h5"
    tiny_network("mobilenet_v3_small").save_weights(file)
    with pytest.raises(LifecycleError, match=r"do not fit mobilenet_v3_small: [^\n]*\Z"):
        exporter.export("mobilenet_v3_small", tmp_path / "store", weights=file)
