"""Real photos as phones spoil them, against the limits of the shipped cards, without a model."""

import csv
import json
import pathlib

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image, ImageFilter
from scipy.ndimage import convolve1d, rotate

from dermserve.gateway.answer import judge_quality
from dermserve.imaging import decode, measure
from dermserve.v1 import card_pb2
from tests.conftest import ROOT

pytestmark = pytest.mark.shared_data
SIDE = 224


@pytest.fixture(scope="module", params=["resnet50", "mobilenet_v3_small"])
def photos(request: pytest.FixtureRequest, shared: pathlib.Path) -> tuple[list[np.ndarray], card_pb2.QualityLimits]:
    """Some validation photos of a shipped model, which the limits may be chosen by, and its limits."""
    run = ROOT / "models/dermserve/models/shipped" / request.param
    data = shared / "data" / ("three_class_64" if request.param == "mobilenet_v3_small" else "ham10000_200x150")
    with (run / "split.csv").open(encoding="utf-8") as file:
        files = [data / row["photo"] for row in csv.DictReader(file) if row["part"] == "validation"]
    pixels = [decode(path.read_bytes(), height=SIDE, width=SIDE) for path in files[:: len(files) // 30]]
    fitted = json.loads((run / "run.json").read_text(encoding="utf-8"))["calibration"]["quality"]
    return pixels, json_format.ParseDict(fitted, card_pb2.QualityLimits())


def _flagged(pixels: list[np.ndarray], limits: card_pb2.QualityLimits) -> float:
    return float(np.mean([any(judge_quality(measure(each), limits)) for each in pixels]))


def _moved(pixels: np.ndarray, *, length: int, degrees: int) -> np.ndarray:
    """Move the camera along a line: turn, blur along rows, turn back."""
    turned = rotate(pixels.astype(np.float32), degrees, reshape=False, order=1, mode="reflect")
    blurred = convolve1d(turned, np.full(length, 1 / length), axis=1, mode="reflect")
    return rotate(blurred, -degrees, reshape=False, order=1, mode="reflect").clip(0, 255).astype(np.uint8)


def _blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def test_few_photos_are_flagged_as_they_are(photos: tuple[list[np.ndarray], card_pb2.QualityLimits]) -> None:
    assert _flagged(*photos) <= 0.05


@pytest.mark.parametrize("sigma", [5, 12])
def test_blur_is_noticed(photos: tuple[list[np.ndarray], card_pb2.QualityLimits], sigma: float) -> None:
    pixels, limits = photos
    assert _flagged([_blurred(each, sigma) for each in pixels], limits) >= 0.85


@pytest.mark.parametrize("gains", [(1.1, 1.0, 0.45), (1.3, 0.5, 0.5), (0.65, 1.2, 0.65), (0.6, 0.8, 1.3)])
def test_a_strong_cast_is_noticed(
    photos: tuple[list[np.ndarray], card_pb2.QualityLimits], gains: tuple[float, ...]
) -> None:
    pixels, limits = photos
    assert _flagged([(each * np.float64(gains)).clip(0, 255).astype(np.uint8) for each in pixels], limits) >= 0.85


@pytest.mark.parametrize(("length", "degrees"), [(21, 0), (21, 30), (35, 45)])
def test_motion_is_noticed(photos: tuple[list[np.ndarray], card_pb2.QualityLimits], length: int, degrees: int) -> None:
    pixels, limits = photos
    assert _flagged([_moved(each, length=length, degrees=degrees) for each in pixels], limits) >= 0.85
