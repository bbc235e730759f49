"""Photos decoded once, exactly as serving does, into one memory-mapped file.

Training and evaluation read the pixels from there; a photo that can't be read stops either before it begins.
"""

import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dermserve.imaging
from dermserve.imaging import PhotoError, decode
from dermserve.models.training.data.samples import Sample, digest_file
from dermserve.models.training.errors import DataError
from dermserve.models.training.files import replacing

_DECODERS = 2
_IMPORTED = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)


def load_pixels(
    samples: Sequence[Sample], *, folder: Path, side: int, progress: Callable[[int], None] | None = None
) -> NDArray[np.uint8]:
    """Decode photos at the serving preprocessing, or map the file an earlier call wrote.

    Args:
        samples: the photos.
        folder: where caches lie; made when absent.
        side: height and width of the model's input.
        progress: called with the number of photos done since the last call.

    Returns:
        uint8 [N, side, side, 3] RGB, memory-mapped and read-only, in the order of `samples`.

    Raises:
        DataError: photos that can't be read, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pixels-{_digest(samples, side)}.npy"
    if not path.is_file():
        with replacing(path) as partial:
            _decode_all(samples, partial, side, progress or (lambda _: None))
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def _digest(samples: Sequence[Sample], side: int) -> str:
    """Identify a list of photos by their files' bytes, and by what decodes them."""
    digests = [sample.digest or digest_file(sample) for sample in samples]
    return hashlib.sha256(json.dumps([side, imaging_version(), digests]).encode()).hexdigest()[:16]


@functools.cache
def imaging_version() -> str:
    """Identify the code that makes pixels and views: that of dermserve.imaging, and the versions of what it imports."""
    files = [file for folder in dermserve.imaging.__path__ for file in sorted(Path(folder).rglob("*.py"))]
    code = [file.read_text(encoding="utf-8") for file in files]
    modules = {name for text in code for name in _IMPORTED.findall(text)}
    installed = importlib.metadata.packages_distributions()
    packages = sorted({package for module in modules for package in installed.get(module, ())})
    versions = [[package, importlib.metadata.version(package)] for package in packages]
    return hashlib.sha256(json.dumps([code, versions]).encode()).hexdigest()[:16]


def _decode_all(samples: Sequence[Sample], path: Path, side: int, progress: Callable[[int], None]) -> None:
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(samples), side, side, 3))
    problems: list[str] = []

    def decode_one(index: int) -> None:
        try:
            data = samples[index].path.read_bytes()
            pixels[index] = decode(data, height=side, width=side).pixels
        except (PhotoError, OSError) as error:
            problems.append(f"{samples[index].path}: {error}")

    with ThreadPoolExecutor(_DECODERS) as pool:
        for _ in pool.map(decode_one, range(len(samples))):
            progress(1)
    pixels.flush()
    if problems:
        shown = "\n  ".join(sorted(problems)[:10])
        raise DataError(f"{len(problems)} of {len(samples)} photos can't be read; mend or remove them:\n  {shown}")
