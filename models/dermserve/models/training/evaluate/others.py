"""Photos of lesions of classes that a model does not know: what its scope is fitted to, and measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.cache import load_pixels
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.samples import Sample
from dermserve.models.training.data.splits import Part, Protocol, read_split, split, write_split
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.loop import Labelled

OTHERS = "others.csv"
"""File of a run that says which photos of other classes its scope was fitted to, as split.csv does."""

_CODES = tuple(item.code for item in SPECS["resnet50"].classes)
_MOST, _MOST_CROPS = 3000, 750
_CROP = 96
"""Side in pixels, of an input of 224, of centre crops: 64 pixels of HAM10000 at 200×150."""


@dataclass(frozen=True, slots=True)
class Others:
    """Photos of other lesions, labelled by HAM10000's classes."""

    samples: Sequence[Sample]
    photos: Labelled

    @property
    def codes(self) -> list[str]:
        """Class code of each photo."""
        return [_CODES[label] for label in self.photos.labels]


def read_others(run: FinishedRun, directory: Path, *, cache: Path, known: Sequence[Sample] = ()) -> dict[Part, Others]:
    """Read photos of HAM10000's classes and leave those that show a class or a lesion that the model knows.

    They are divided by lesion, the same way each time; the division is kept in the run at the first.

    Args:
        run: of a model that does not know all of HAM10000's classes.
        directory: HAM10000 in any layout that `read_samples` knows.
        cache: where decoded photos lie.
        known: photos of the run's own malignant classes, whose lesions are none of the others.
    """
    own, lesions = {item.code for item in SPECS[run.model].classes}, {sample.lesion for sample in known}
    samples = [
        sample
        for sample in read_samples(directory, _CODES)
        if _CODES[sample.label] not in own and sample.lesion not in lesions
    ]
    file = run.folder / OTHERS
    if not file.is_file():
        write_split(file, split(samples, protocol=Protocol.LESION, validation=0.15, test=0.15, seed=0))
    by_stem = {Path(name).stem: recorded for name, recorded in read_split(file).items()}
    parts = {sample: by_stem[sample.path.stem].part for sample in samples if sample.path.stem in by_stem}
    return {part: _load([sample for sample in parts if parts[sample] is part], run, cache) for part in Part}


def _load(samples: Sequence[Sample], run: FinishedRun, cache: Path) -> Others:
    chosen = samples[:: max(1, -(-len(samples) // _MOST))]
    pixels = load_pixels(chosen, folder=cache, side=SPECS[run.model].input_side)
    labels = np.asarray([sample.label for sample in chosen], np.int64)
    return Others(chosen, Labelled(pixels, np.arange(len(chosen)), labels))


def centre_crops(photos: Labelled) -> Labelled:
    """Enlarge the centre of some of the photos to the whole input: lesions as near as in a data set of crops."""
    some = photos.thinned(_MOST_CROPS)
    side = photos.images.shape[1]
    start = (side - _CROP) // 2
    box = (start, start, start + _CROP, start + _CROP)
    crops = [
        np.asarray(Image.fromarray(photos.images[row]).resize((side, side), Image.Resampling.BILINEAR, box=box))
        for row in some.rows
    ]
    return Labelled(np.stack(crops), np.arange(len(crops)), some.labels)


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weigh photos so that a class counts by the root of its size: moles are two thirds of HAM10000."""
    counts = np.bincount(labels).astype(float)
    return np.asarray(1 / np.sqrt(counts[labels]))
