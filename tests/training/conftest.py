"""Tiny data sets, drawn on the spot."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermserve.models.training.train import backbones
from tests.tiny import tiny_network

CLASSES = ("bcc", "scc", "normal")
MakeFolders = Callable[..., Path]


def draw(path: Path, *, label: int, seed: int, side: int = 48) -> None:
    """Save noise whose colour tells the class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (side, side, 3))
    pixels[..., label] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def draw_photos(base: Path, *, each: int = 12, seed: int = 0) -> Path:
    """Draw a folder a class."""
    for label, code in enumerate(CLASSES):
        for index in range(each):
            draw(base / code / f"{code}_{index:02}.png", label=label, seed=seed + 100 * label + index)
    return base


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, of twelve photos each."""
    return draw_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture
def folders(tmp_path: Path) -> MakeFolders:
    """Make a folder a class; every two photos show one lesion when `lesions` is set."""

    def make(counts: dict[str, int], *, lesions: bool = False, name: str = "data") -> Path:
        base, rows = tmp_path / name, []
        for label, (code, count) in enumerate(counts.items()):
            for index in range(count):
                draw(base / code / f"{code}_{index:03}.png", label=label % 3, seed=1000 * label + index)
                rows.append((f"{code}_{index:03}", f"lesion_{code}_{index // 2:03}", code))
        if lesions:
            with (base / "HAM10000_metadata.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("image_id", "lesion_id", "dx"), *rows])
        return base

    return make


@pytest.fixture(scope="module")
def tiny_networks() -> Iterator[None]:
    """Let runs build a tiny network: what a run belongs to, and what it leaves, are the same for any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "build", tiny_network)
        yield
