"""What the exporter's verification refuses, each shown by a small SavedModel that breaks one promise."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from dermserve.contract import render_card
from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.graph import signatures
from dermserve.models.verify import VerificationError, open_version, verify
from dermserve.v1 import card_pb2

SIDE = 8
CARD = render_card(
    card_pb2.Card(
        schema_version=2,
        model="small",
        classes=[card_pb2.ClassInfo(code=code, name=code) for code in ("a", "b")],
        input=card_pb2.InputSpec(height=SIDE, width=SIDE, fit=card_pb2.FIT_CENTER_CROP),
        views=STANDARD_VIEWS,
    )
)
PIXELS = tf.TensorSpec([None, None, None, None], tf.uint8, name="images")
STATED = tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")
SCALAR = tf.TensorSpec([], tf.string, name="query")
QUERY = tf.TensorSpec([None], tf.string, name="query")


def _core(images: Any) -> dict[str, Any]:
    means = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) / 255
    logits = means[:, :2]
    return {"probabilities": tf.nn.softmax(logits), "logits": logits, "ood_score": tf.reduce_max(logits, -1)}


def _small() -> dict[str, Any]:
    return signatures(_core, side=SIDE, views=STANDARD_VIEWS, card=CARD)


def _function(call: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
    return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()


def _save(folder: pathlib.Path, changed: dict[str, Any]) -> pathlib.Path:
    tf.saved_model.save(tf.Module(), str(folder), signatures={**_small(), **changed})
    return folder


def test_a_small_model_that_keeps_the_contract_passes(tmp_path: pathlib.Path) -> None:
    with open_version(_save(tmp_path / "1", {})) as version:
        assert verify(version).model == "small"


def _describe(answer: Callable[[Any], Any]) -> Any:
    return _function(lambda query: {"card": answer(query)}, QUERY)


def _whole(images: Any) -> dict[str, Any]:
    return {**_core(tf.ensure_shape(images, [None, SIDE, SIDE, 3])), "probabilities": tf.constant([0.5, 0.5])}


BROKEN: dict[str, tuple[str, Callable[[], Any], str]] = {
    # What is broken: the signature that does, how to make it, and words of the error.
    "no input": ("describe", lambda: _function(lambda: {"card": tf.constant([CARD])}), "describe has no input"),
    "an input of no dimension": (
        "describe",
        lambda: _function(lambda query: {"card": tf.fill([tf.size(query)], CARD)}, SCALAR),
        "describe: input query has no batch dimension",
    ),
    "an input of a fixed batch": (
        "tta",
        lambda: _function(_core, tf.TensorSpec([1, SIDE, SIDE, 3], tf.uint8, "images")),
        "tta: input images has no batch dimension",
    ),
    "one card, whatever the queries": (
        "describe",
        lambda: _describe(lambda query: tf.constant(CARD)),
        "describe: output card has no batch dimension",
    ),
    "an output of a fixed size": (
        "serving_default",
        lambda: _function(_whole, PIXELS),
        "serving_default: output probabilities has no batch dimension",
    ),
    "one card for two queries": (
        "describe",
        lambda: _describe(lambda query: tf.fill(tf.minimum(tf.shape(query), 1), CARD)),
        "two equal cards",
    ),
    "unequal cards": ("describe", lambda: _describe(lambda query: tf.strings.join([CARD, query])), "two equal cards"),
    "no card": ("describe", lambda: _describe(lambda query: tf.fill(tf.shape(query), "{}")), "schema_version is 0"),
    "images of any size": ("serving_default", lambda: _function(_core, PIXELS), "the graph must refuse"),
    # Python's session refuses these; TensorFlow Serving's would not.
    "a placeholder that only states the size": (
        "tta",
        lambda: _function(_core, STATED),
        "tta: the graph must refuse",
    ),
    "a check of the height alone": (
        "serving_default",
        lambda: _function(lambda images: _core(tf.ensure_shape(images, [None, SIDE, None, None])), PIXELS),
        r"must refuse images of \(8, 9, 3\)",
    ),
    "a check of the size without the channels": (
        "serving_default",
        lambda: _function(lambda images: _core(tf.ensure_shape(images, [None, SIDE, SIDE, None])), PIXELS),
        r"must refuse images of \(8, 8, 1\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_saved_model_that_breaks_a_promise_is_refused(what: str, tmp_path: pathlib.Path) -> None:
    signature, make, words = BROKEN[what]
    folder = _save(tmp_path / "1", {signature: make()})
    with open_version(folder) as version, pytest.raises(VerificationError, match=words):
        verify(version)
