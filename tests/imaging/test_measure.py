"""What is measured of photos: whether they can be judged, and whether others come."""

import io
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from dermserve.imaging import Measures, measure

SIDE = 224


def skin(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Draw skin with grain and hairs, light from one side, and a brown lesion with spots in it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    image = np.stack([np.full((side, side), value) for value in (215.0, 165.0, 140.0)], axis=-1)
    image += 25 * (columns - 0.5)[..., None]
    lesion = 1 / (1 + np.exp((np.hypot(rows - 0.5, columns - 0.5) - 0.25) * 40))
    spots = rng.normal(0, 1, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)[..., None] * (18, 10, 4)
    image += lesion[..., None] * (np.asarray((-70.0, -80.0, -60.0)) + spots)
    image += rng.normal(0, 7, (side, side, 1)) + rng.normal(0, 6, (side, side, 3))
    for column in rng.integers(0, side - 40, 12):
        image[np.arange(side), (column + np.arange(side) // 6) % side] -= 70
    return image.clip(0, 255).astype(np.uint8)


def spoiled(change: Callable[[Image.Image], Image.Image], seed: int = 0) -> Measures:
    return measure(np.asarray(change(Image.fromarray(skin(seed)))))


def gamma(exponent: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def exposed(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Image.open(file).convert("RGB")


def sepia(image: Image.Image) -> Image.Image:
    gray = np.asarray(image.convert("L"), float)[..., None]
    return Image.fromarray((gray * (1.07, 0.87, 0.67)).clip(0, 255).astype(np.uint8))


def cast(*gains: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: Image.fromarray((np.asarray(image, float) * gains).clip(0, 255).astype(np.uint8))


def moved(image: Image.Image, *, columns: int = 0, rows: int = 0, steps: int = 16) -> Image.Image:
    pixels = np.asarray(image, float)
    shifts = [(round(rows * step / steps), round(columns * step / steps)) for step in range(steps)]
    return Image.fromarray(np.mean([np.roll(pixels, shift, (0, 1)) for shift in shifts], axis=0).astype(np.uint8))


GOOD = [measure(skin(seed)) for seed in range(4)]


@pytest.mark.parametrize(
    ("change", "name", "below"),
    [
        (exposed(0.4), "brightness", True),
        (gamma(3.0), "brightness", True),
        (exposed(1.8), "glare", False),
        (lambda image: image.point([min(255, value + 90) for value in range(256)] * 3), "brightness", False),
        (gamma(0.25), "brightness", False),
        (lambda image: image.convert("L").convert("RGB"), "color", True),
        (lambda image: jpeg(image.convert("L").convert("RGB")), "color", True),
        (lambda image: ImageEnhance.Color(image).enhance(0.1), "color", True),
        (sepia, "color", True),
        (lambda image: jpeg(sepia(image)), "color", True),
        (cast(1.1, 1.0, 0.5), "yellowness", False),
        (cast(1.3, 0.6, 0.6), "redness", False),
        (cast(0.7, 1.2, 0.7), "redness", True),
        (cast(0.6, 0.8, 1.3), "yellowness", True),
        (lambda image: image.filter(ImageFilter.GaussianBlur(4.5)), "detail", True),
        (lambda image: jpeg(image.filter(ImageFilter.GaussianBlur(4.5))), "detail", True),
        (lambda image: image.filter(ImageFilter.BoxBlur(6)), "detail", True),
        (lambda image: moved(image, columns=16), "detail", True),
        (lambda image: moved(image, rows=16), "detail", True),
        (lambda image: moved(image, rows=12, columns=12), "detail", True),
        (lambda image: moved(image, rows=-12, columns=12), "detail", True),
        (lambda image: image.resize((12, 12)).resize((SIDE, SIDE), Image.Resampling.BILINEAR), "detail", True),
        (
            lambda image: image.crop((0, 0, 24, 24)).filter(ImageFilter.GaussianBlur(9)).resize(image.size),
            "contrast",
            1,
        ),
        (lambda image: Image.new("RGB", image.size, (225, 190, 160)), "contrast", True),
    ],
)
def test_what_spoils_a_photo_shows_in_its_measure(change, name, below):
    good = [getattr(found, name) for found in GOOD]
    for seed in range(4):
        bad = getattr(spoiled(change, seed), name)
        assert bad < 0.8 * min(good) if below else bad > 1.2 * max(good)


@pytest.mark.parametrize("side", [4, 7, 12, 19, 21])
def test_pictures_of_any_size_are_measured(side: int) -> None:
    found = measure(skin(side=64)[:side, : side + 3])
    assert 0 <= found.detail < np.inf


def test_a_flat_picture_is_as_bright_as_it_is_and_shows_nothing() -> None:
    found = measure(np.full((32, 24, 3), 77, np.uint8))
    assert found.brightness == pytest.approx(77)
    nothing = (found.sharpness, found.color, found.detail, found.contrast, found.glare)
    assert nothing == pytest.approx((0, 0, 0, 0, 0), abs=1e-4)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_pictures_are_measured_without_a_division_by_nothing(value: int) -> None:
    found = measure(np.full((SIDE, SIDE, 3), value, np.uint8))
    assert (found.brightness, found.contrast, found.glare) == (pytest.approx(value), 0, value // 255)


def test_a_darker_exposure_leaves_what_a_photo_shows() -> None:
    dark = spoiled(exposed(0.3))
    assert dark.contrast == pytest.approx(GOOD[0].contrast, rel=0.1)
    assert dark.detail == pytest.approx(GOOD[0].detail, rel=0.1)


def _bend(luma: np.ndarray, lag: int, down: int, across: int) -> float:
    """Mean absolute second difference, area by area."""
    found = [
        abs(luma[y - lag * down, x - lag * across] + luma[y + lag * down, x + lag * across] - 2 * luma[y, x])
        for y in range(2, luma.shape[0] - 2)
        for x in range(2, luma.shape[1] - 2)
    ]
    return float(np.mean(found)) / (1.6 if down and across else 1)


@pytest.mark.parametrize("shape", [(20, 20), (31, 47), (64, 33), (66, 90)])
def test_the_measures_are_those_of_their_definitions(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    pixels[:, ::2] //= 2  # less structure along columns
    pixels[:8, :12, 0] = 250
    rows, columns = shape[0] // 4, shape[1] // 4
    areas = pixels[: rows * 4, : columns * 4].reshape(rows, 4, columns, 4, 3).mean((1, 3))
    red, green, blue = np.moveaxis(areas, 2, 0)
    luma, differences = areas @ (0.299, 0.587, 0.114), (red - green, (red + green) / 2 - blue)
    left = [np.polyfit(luma.ravel(), each.ravel(), 1, full=True)[1][0] / luma.size for each in differences]
    fine, coarse = ([_bend(luma, lag, *way) for way in ((0, 1), (1, 0), (1, 1), (1, -1))] for lag in (1, 2))
    expected = Measures(
        brightness=luma.mean(),
        sharpness=np.mean(fine),
        glare=np.mean(areas >= 248),
        color=np.sqrt(sum(left)),
        redness=differences[0].mean(),
        yellowness=differences[1].mean() / luma.mean(),
        detail=min(one / max(other, 1, 0.75 * np.mean(coarse)) for one, other in zip(fine, coarse, strict=True)),
        contrast=luma.std() / luma.mean(),
    )
    assert asdict(measure(pixels)) == pytest.approx(asdict(expected), rel=1e-4)


@pytest.mark.parametrize("shape", [(4, 4), (5, 9), (31, 224), (225, 225)])
def test_any_size_can_be_measured(shape: tuple[int, int]) -> None:
    found = measure(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert all(np.isfinite(getattr(found, name)) for name in Measures.__slots__)
