"""Augment a batch of photos in the graph, from a seed: geometry in one resampling, then light, colour and sharpness."""

import math
from typing import Any, TypeAlias

import tensorflow as tf

from dermserve.models.training.train.experiment import Augmentation

Tensor: TypeAlias = Any

_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)
# How far a smaller crop may be off the centre, as a share of the room; lesions are in the middle.
_ROAM = 0.5
_GRAY = (0.299, 0.587, 0.114)


def augment(images: Tensor, settings: Augmentation, *, side: int, seed: Tensor) -> Tensor:
    """Vary photos, uint8 [N, S, S, 3], by a seed, int32 [2], into crops, float32 [N, side, side, 3] in 0..255."""
    seeds = tf.random.experimental.stateless_split(seed, 11)
    photos = _moved(tf.cast(images, tf.float32), settings, side, seeds)
    if settings.sharpness:
        amount = _draw(photos, seeds[6], settings.sharpness, (1, 1, 1))
        photos = photos + amount * (photos - _blurred(photos))
    gain = 1 + _draw(photos, seeds[5], settings.brightness, (1, 1, 1))
    gain *= 1 + _draw(photos, seeds[7], settings.channel_gain, (1, 1, 3))
    photos *= gain
    mean = tf.reduce_mean(photos, axis=(1, 2), keepdims=True)
    photos = mean + (photos - mean) * (1 + _draw(photos, seeds[8], settings.contrast, (1, 1, 1)))
    gray = tf.reduce_sum(photos * tf.constant(_GRAY), axis=-1, keepdims=True)
    photos = gray + (photos - gray) * (1 + _draw(photos, seeds[9], settings.saturation, (1, 1, 1)))
    return tf.clip_by_value(photos, 0.0, 255.0)


def _draw(photos: Tensor, seed: Tensor, size: float, shape: tuple[int, ...]) -> Tensor:
    return tf.random.stateless_uniform((tf.shape(photos)[0], *shape), seed, -size, size)


def _moved(photos: Tensor, settings: Augmentation, side: int, seeds: Tensor) -> Tensor:
    """Rotate, shear, mirror, magnify and shift about the centre in one bilinear resampling; edges reflect."""
    count, height = tf.shape(photos)[0], photos.shape[1]
    angle = _draw(photos, seeds[0], math.radians(settings.rotation), ())
    shear = tf.tan(_draw(photos, seeds[1], math.radians(settings.shear), ()))
    low, high = (math.log(bound) for bound in settings.zoom)
    scale = tf.exp(-tf.random.stateless_uniform((count,), seeds[2], low, high))  # input pixels per output pixel
    room = _ROAM * max(0.0, (height - side) / 2)
    shift = _draw(photos, seeds[3], room + settings.shift * height, (2,))
    heads = tf.random.stateless_uniform((count,), seeds[4]) < (0.5 if settings.flip else 0.0)
    mirror = tf.where(heads, -1.0, 1.0)
    cosine, sine = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cosine * mirror, (cosine * shear - sine)
    c, d = sine * mirror, (sine * shear + cosine)
    middle, centre = (side - 1) / 2, (height - 1) / 2
    x = centre + shift[:, 0] - (a + b) * middle
    y = centre + shift[:, 1] - (c + d) * middle
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=photos,
        transforms=tf.stack([a, b, x, c, d, y, zero, zero], axis=1),
        output_shape=tf.constant([side, side]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _blurred(photos: Tensor) -> Tensor:
    """Blur with a binomial filter of five taps a side, about one pixel's standard deviation."""
    row = tf.constant(_BLUR) / sum(_BLUR)
    kernel = tf.tile(tf.reshape(row[:, tf.newaxis] * row, (5, 5, 1, 1)), (1, 1, 3, 1))
    padded = tf.pad(photos, ((0, 0), (2, 2), (2, 2), (0, 0)), "REFLECT")
    return tf.nn.depthwise_conv2d(padded, kernel, (1, 1, 1, 1), "VALID")
