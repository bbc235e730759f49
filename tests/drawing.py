"""A drawn picture that looks a little like a dermoscopy photo, so that a demo needs no photo of anyone's skin."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_ROWS, _COLUMNS = 450, 600
_SKIN, _PIGMENT = (224.0, 178.0, 152.0), (96.0, 56.0, 40.0)


def draw_lesion(*, seed: int = 0) -> bytes:
    """Draw a made-up lesion on made-up skin, the same for the same seed: a JPEG of 600×450 pixels."""
    random = np.random.default_rng(seed)
    down, across = (np.mgrid[0:_ROWS, 0:_COLUMNS] - np.array([_ROWS, _COLUMNS])[:, None, None] / 2) / (_ROWS / 2)
    lesion = _lesion(random, down - 0.05, across + 0.1)
    net = np.exp(-((_clouds(random, 12) / 0.35) ** 2))
    skin = np.array(_SKIN) + 5 * _clouds(random, 40)[..., np.newaxis]
    pixels = skin + (lesion * (0.75 + 0.25 * net))[..., np.newaxis] * (np.array(_PIGMENT) - skin)
    pixels *= (1 - 0.25 * np.clip(np.hypot(down, across) - 0.9, 0, None) ** 1.5)[..., np.newaxis]  # dark corners
    pixels += random.normal(0, 2.5, pixels.shape)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    steps = np.linspace(0, 1, 40)[:, np.newaxis]
    for _ in range(6):
        start, middle, end = random.uniform((0, 0), (_COLUMNS, _ROWS), (3, 2))
        hair = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * middle + steps**2 * end
        ImageDraw.Draw(image).line([(x, y) for x, y in hair.tolist()], fill=(62, 44, 38), width=2)
    file = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.7)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _clouds(random: np.random.Generator, cell: int) -> NDArray[np.float64]:
    """Make smooth noise of about unit height: random values every `cell` pixels, interpolated."""
    coarse = random.normal(0, 1, (_ROWS // cell + 2, _COLUMNS // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((_COLUMNS, _ROWS), Image.Resampling.BICUBIC), np.float64)


def _lesion(random: np.random.Generator, down: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the density of pigment, 0 to 1: a disc with an uneven, blurred border and an uneven inside."""
    angle, border = np.arctan2(down, across), np.full(down.shape, 0.52)
    for order, amplitude in ((2, 0.08), (3, 0.05), (5, 0.03), (9, 0.015)):
        border += amplitude * np.cos(order * angle + random.uniform(0, 2 * np.pi))
    inside = 1 / (1 + np.exp((np.hypot(down, across) - border) / 0.035))
    return np.asarray(inside * np.clip(0.72 + 0.18 * _clouds(random, 70), 0.2, 1))
