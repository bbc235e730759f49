"""Decode photos once, exactly as in serving, into one memory-mapped file for training and evaluation."""

import contextlib
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
from dermserve.models.training.errors import DAMAGED, DataError, json_digest

_DECODERS, _AT_ONCE = 2, 256  # threads, and photos in memory


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
    with contextlib.suppress(*DAMAGED):  # or not there yet
        return np.asanyarray(np.load(path, mmap_mode="r"))
    with replacing(path) as partial:
        _decode_all(samples, partial, side)
    return np.asanyarray(np.load(path, mmap_mode="r"))


@functools.cache
def imaging_version() -> str:
    """Return a digest of the code of dermserve.imaging and of the versions of the packages that it imports."""
    files = [file for folder in dermserve.imaging.__path__ for file in sorted(Path(folder).rglob("*.py"))]
    versions = []
    for package in ("numpy", "pillow", "simplejpeg", "cykooz-resizer", "pillow-heif"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the last three may be absent
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return json_digest([[file.read_text(encoding="utf-8") for file in files], versions])[:16]


def _decode_all(samples: Sequence[Sample], path: Path, side: int) -> None:
    problems: list[str] = []

    def decode_one(sample: Sample) -> bytes:
        try:
            return decode(sample.path.read_bytes(), height=side, width=side).tobytes()
        except (PhotoError, OSError) as error:
            problems.append(f"{sample.path}: {error}")
            return b""

    # Written from the start to the end: a full disk would end a program that fills a mapped file by a signal.
    with ThreadPoolExecutor(_DECODERS) as pool, path.open("wb") as file:
        shape = (len(samples), side, side, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(samples), _AT_ONCE):
            file.writelines(pool.map(decode_one, samples[start : start + _AT_ONCE]))
    if problems:
        shown = "\n  ".join(sorted(problems)[:10])
        raise DataError(f"{len(problems)} of {len(samples)} photos can't be read; repair or remove them:\n  {shown}")
