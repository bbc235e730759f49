"""A data set and its split; the same lesions at another resolution; lesions that a model does not know."""

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dermserve.models.catalogue import SPECS, Spec
from dermserve.models.training.data import splits
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import Labelled, load_pixels
from dermserve.models.training.data.splits import Part, Sample
from dermserve.models.training.errors import DataError, plain_name
from dermserve.models.training.terminal import say
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.finished import FinishedRun

CODES = SPECS["resnet50"].codes  # classes of HAM10000
OTHERS = "others.csv"  # split of HAM10000's lesions of classes that a model does not know, in the folder of a run
_MOST, _MOST_CROPS = 3000, 750
_CROP = 3 / 7  # of a photo's side: 64 pixels of HAM10000 at 200×150


@dataclass(frozen=True)
class Data:
    """A data set and its split; photos are decoded when they are first asked for."""

    parts: Mapping[Sample, Part]  # of all samples, in their order
    spec: Spec  # the model that sees them
    cache: Path  # folder of the decoded photos
    also: int = 0  # how many samples at the end are of the same lesions at another resolution
    name: str = ""  # of its folder, where a run is evaluated on it
    claimed: bool = False  # whether test photos may be read: only `evaluate` does, after claim_test

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """The photos, N."""
        return list(self.parts)

    @functools.cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return load_pixels(self.samples, folder=self.cache, side=self.spec.input_side)

    @property
    def own(self) -> dict[Sample, Part]:
        """The split of the data set's own photos."""
        return {sample: self.parts[sample] for sample in self.samples[: len(self.samples) - self.also]}

    def part(self, *parts: Part) -> Labelled:
        """Return the photos of one part, or of several. Raises RuntimeError: test photos that are not claimed."""
        if Part.TEST in parts and not self.claimed:
            raise RuntimeError("test photos are measured once, by evaluate_own after claim_test")
        rows = np.asarray([row for row, part in enumerate(self.parts.values()) if part in parts], np.int64)
        samples, possible = [self.samples[row] for row in rows], None
        if self.also:
            classes = np.arange(max(sample.label for sample in self.samples) + 1)
            present = np.isin(classes, [sample.label for sample in self.samples[-self.also :]])
            own = rows < len(self.samples) - self.also
            possible = (own[:, np.newaxis] | present).astype(np.float32)
        return Labelled(self._pixels, rows, np.asarray([each.label for each in samples], np.int64), possible, samples)


def prepare(experiment: Experiment, directory: Path, *, cache: Path) -> Data:
    """Read, check and split a data set for an experiment."""
    spec, shares = SPECS[experiment.model], {"validation": experiment.validation, "test": experiment.test}
    samples = read_samples(directory, spec.codes)
    parts = splits.split(samples, protocol=experiment.protocol, seed=experiment.seed, **shares)
    splits.require_parts(parts, spec.codes, **shares)
    return Data({sample: parts[sample] for sample in samples}, spec, cache)


def finished_data(run: FinishedRun, directory: Path, *, cache: Path) -> Data:
    """Read a run's data again, with the split of its split.csv; a DataError if photos are missing or changed."""
    spec, recorded = SPECS[run.model], run.split
    samples = [sample for sample in read_samples(directory, spec.codes) if sample.name in recorded]
    if missing := recorded.keys() - {sample.name for sample in samples}:
        lacking = f"{len(missing)} photos of the run's split, such as {min(missing)}"
        raise DataError(f"{directory} lacks {lacking}: pass its data")
    if changed := [sample.name for sample in samples if recorded[sample.name].digest != sample.digest]:
        others = f"{len(changed)} photos that are not those of the run's split, such as {changed[0]}"
        raise DataError(f"{directory} has {others}: pass the data the run was trained from")
    parts = {sample: recorded[sample.name].part for sample in samples}
    return Data(parts, spec, cache, name=plain_name(directory))


def read_also(data: Data, directory: Path) -> Data:
    """Read the same lesions at another resolution, by class and file name; each photo gets its lesion's part."""
    known: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for own in data.parts:
        known[own.label, own.path.stem].append(own)
    found, parts = read_samples(directory, data.spec.codes), {}
    for sample in found:
        names = known[sample.label, sample.path.stem]
        if len({own.lesion for own in names}) > 1:
            raise DataError(f"{sample.path} may be {names[0].name} or {names[1].name}: rename them in both folders")
        for own in names[:1]:
            parts[replace(sample, lesion=own.lesion, name=f"{directory.name}/{sample.name}")] = data.parts[own]
    if not parts:
        raise DataError(f"{directory} has no photo with a file name of the split: pass photos of the same lesions")
    if len(parts) < len(found):
        say(f"{directory}: left out {len(found) - len(parts)} of {len(found)} photos, which are not in the split")
    return replace(data, parts=parts, name=plain_name(directory))


def with_also(data: Data, directory: Path) -> Data:
    """Append what `read_also` returns to a data set's own photos, to train on both."""
    also = read_also(data, directory).parts
    return replace(data, parts={**data.parts, **also}, also=len(also))


def read_others(data: Data, directory: Path, *, recorded: Path) -> Data:
    """Read HAM10000 without classes that a data set's model knows and lesions of its own photos; labelled by CODES.

    They are split by lesion: as the file `recorded` says where there is one, or anew.
    """
    spec = data.spec
    lesions = {sample.lesion for sample in data.samples if spec.classes[sample.label].malignant}
    found = read_samples(directory, CODES)
    samples = [sample for sample in found if CODES[sample.label] not in spec.codes and sample.lesion not in lesions]
    if recorded.is_file():
        by_name = {name: each.part for name, each in splits.read_split(recorded).items()}
        by_stem = {Path(name).stem: part for name, part in by_name.items()}  # the photos may lie in other folders today
        known_parts = ((each, by_name.get(each.name) or by_stem.get(each.path.stem)) for each in samples)
        parts = {sample: part for sample, part in known_parts if part}
    else:
        parts = splits.split(samples, protocol=splits.Protocol.LESION, validation=0.15, test=0.15, seed=0)
    if lacking := [part.value for part in Part if part not in parts.values()]:
        what = f"too few lesions that {spec.name} does not know, none for {' and '.join(lacking)}"
        raise DataError(f"{directory} has {what}")
    chosen: dict[Sample, Part] = {}
    for part in Part:
        those = [sample for sample in parts if parts[sample] is part]
        chosen |= dict.fromkeys(those[:: max(1, -(-len(those) // _MOST))], part)
    return Data(chosen, spec, data.cache)


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
