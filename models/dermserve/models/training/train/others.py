"""HAM10000's lesions of classes that a model does not know: outliers to train on, and to fit and measure the scope."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data import splits
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, Protocol, Sample
from dermserve.models.training.train.dataset import Data, decoded

CODES = SPECS["resnet50"].codes  # classes of HAM10000
OTHERS = "others.csv"  # their split, in the folder of a run
_MOST, _MOST_CROPS = 3000, 750
_CROP = 3 / 7  # of a photo's side: 64 pixels of HAM10000 at 200×150


def read_others(model: str, directory: Path, *, recorded: Path, cache: Path, known: Sequence[Sample]) -> Data:
    """Read HAM10000 without classes that the model knows and lesions of its own photos, `known`; labelled by CODES.

    They are split by lesion: as the file `recorded` says where there is one, or anew.
    """
    spec = SPECS[model]
    lesions = {sample.lesion for sample in known if spec.classes[sample.label].malignant}
    found = read_samples(directory, CODES)
    samples = [sample for sample in found if CODES[sample.label] not in spec.codes and sample.lesion not in lesions]
    if recorded.is_file():
        by_stem = {Path(name).stem: each.part for name, each in splits.read_split(recorded).items()}
        parts = {sample: by_stem[sample.path.stem] for sample in samples if sample.path.stem in by_stem}
    else:
        parts = splits.split(samples, protocol=Protocol.LESION, validation=0.15, test=0.15, seed=0)
    chosen = list[Sample]()
    for part in Part:
        those = [sample for sample in parts if parts[sample] is part]
        chosen += those[:: max(1, -(-len(those) // _MOST))]
    return decoded(chosen, {sample: parts[sample] for sample in chosen}, spec, cache=cache)


def centre(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge the centre of a photo, uint8 [S, S, 3], so that its lesion is as near as in a data set of crops."""
    side = len(photo)
    start, crop = round(side * (1 - _CROP) / 2), round(side * _CROP)
    box = (start, start, start + crop, start + crop)
    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR, box=box))


def centre_crops(photos: Labelled) -> Labelled:
    """Return the enlarged centres of some of the photos."""
    some = photos.thinned(_MOST_CROPS)
    return Labelled.whole(np.stack([centre(some.images[row]) for row in some.rows]), some.labels)


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight photos so that a class counts by the square root of its size: two thirds of HAM10000 are moles."""
    return np.asarray(1 / np.sqrt(np.bincount(labels).astype(float)[labels]))
