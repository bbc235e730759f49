"""Networks that stand in for the real ones, where a test asks nothing of their layers."""

import pathlib

import keras

from dermserve.models.catalogue import SPECS
from dermserve.models.exporter import Content, write_version
from dermserve.v1 import card_pb2


def tiny_backbone(*_: object) -> keras.Model:
    images = keras.Input((224, 224, 3))
    maps = keras.layers.Conv2D(8, 32, strides=32, use_bias=False, name="conv")(keras.layers.Rescaling(1 / 255)(images))
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    maps = keras.layers.Conv2D(8, 1, use_bias=False, name="top_conv")(maps)
    return keras.Model(images, keras.layers.BatchNormalization(name="top_norm")(maps), name="backbone")


def tiny_network(model: str, **_: object) -> keras.Model:
    """Build what architectures.build does, but for its size."""
    images = keras.Input((224, 224, 3), name="rgb")
    features = keras.layers.GlobalAveragePooling2D(name="features")(tiny_backbone()(images))
    logits = keras.layers.Dense(len(SPECS[model].classes), name="logits")(features)
    return keras.Model(images, {"logits": logits, "features": features}, name=model)


def tiny_content(model: str) -> Content:
    keras.utils.set_random_seed(0)
    return Content(network=tiny_network(model), provenance=card_pb2.Provenance(training=card_pb2.TRAINING_NONE))


def export_tiny(model: str, folder: pathlib.Path) -> None:
    write_version(tiny_content(model), folder)
