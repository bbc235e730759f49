"""Networks whose every layer matters."""

import keras
import numpy as np


def disturb_batch_norm(network: keras.Model) -> None:
    """Give batch norm other values than those it starts with, which change nothing."""
    rng = np.random.default_rng(0)
    for layer in [*network.layers, *network.get_layer("backbone").layers]:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = (2, *layer.gamma.shape)
            around_one, around_zero = rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.1, shape)
            layer.set_weights([around_one[0], around_zero[0], around_zero[1], around_one[1]])
