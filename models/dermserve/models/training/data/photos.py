"""Decode photos once, exactly as in serving, into one memory-mapped file for training and evaluation."""

import functools
import importlib.metadata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dermserve.imaging
from dermserve.imaging import Measures, PhotoError, decode, measure
from dermserve.models.durable import replacing
from dermserve.models.training.data.splits import Sample, digest_file
from dermserve.models.training.errors import DataError, json_digest

_DECODERS = 2


@dataclass(frozen=True)
class Labelled:
    """N photos and their classes."""

    images: NDArray[np.uint8]  # [M, S, S, 3]; may be memory-mapped
    rows: NDArray[np.int64]  # which of the images, [N]
    labels: NDArray[np.int64]  # their classes, [N]
    possible: NDArray[np.float32] | None = None  # float32 [N, C]: 0 for classes that the data set lacks
    samples: Sequence[Sample] = ()  # the photos, [N]; empty for drawn and spoiled ones

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def whole(
        cls, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, samples: Sequence[Sample] = ()
    ) -> "Labelled":
        """Take every image; labels and samples [M]. Labels are those of the samples, or zeros, when None."""
        if labels is None:
            labels = np.asarray([sample.label for sample in samples] or np.zeros(len(images)), np.int64)
        return cls(images, np.arange(len(images)), labels, samples=samples)

    @functools.cached_property
    def measures(self) -> list[Measures]:
        """Brightness, sharpness and so on of each photo."""
        return [measure(self.images[row]) for row in self.rows]

    def thinned(self, most: int) -> "Labelled":
        """Keep at most `most` photos, evenly spread."""
        return self.every(max(1, -(-len(self) // most)))

    def every(self, step: int) -> "Labelled":
        """Keep every `step`-th photo."""
        possible = None if self.possible is None else self.possible[::step]
        return Labelled(self.images, self.rows[::step], self.labels[::step], possible, self.samples[::step])


def load_pixels(samples: Sequence[Sample], *, folder: Path, side: int) -> NDArray[np.uint8]:
    """Decode photos as in serving, or map the file of an earlier call: uint8 [N, side, side, 3] RGB, read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = [sample.digest or digest_file(sample) for sample in samples]
    path = folder / f"pixels-{json_digest([side, imaging_version(), digests])[:16]}.npy"
    if not path.is_file():
        with replacing(path) as partial:
            _decode_all(samples, partial, side)
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


@functools.cache
def imaging_version() -> str:
    """Return a digest of the code of dermserve.imaging and of the versions of the packages that it imports."""
    files = [file for folder in dermserve.imaging.__path__ for file in sorted(Path(folder).rglob("*.py"))]
    versions = [importlib.metadata.version(package) for package in ("numpy", "pillow")]
    return json_digest([[file.read_text(encoding="utf-8") for file in files], versions])[:16]


def _decode_all(samples: Sequence[Sample], path: Path, side: int) -> None:
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(samples), side, side, 3))
    problems: list[str] = []

    def decode_one(index: int) -> None:
        try:
            pixels[index] = decode(samples[index].path.read_bytes(), height=side, width=side)
        except (PhotoError, OSError) as error:
            problems.append(f"{samples[index].path}: {error}")

    with ThreadPoolExecutor(_DECODERS) as pool:
        list(pool.map(decode_one, range(len(samples))))  # which raises what a thread raised
    pixels.flush()
    if problems:
        shown = "\n  ".join(sorted(problems)[:10])
        raise DataError(f"{len(problems)} of {len(samples)} photos can't be read; repair or remove them:\n  {shown}")
