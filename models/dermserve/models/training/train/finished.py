"""A finished run, read back: its network, split, calibration and looks at test photos; for evaluation and export."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance
from dermserve.models.training.data.splits import Part, Recorded, Sample, read_split
from dermserve.models.training.errors import DAMAGED, RunError, json_digest, read_json, replacing, write_json
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.experiment import Experiment, parse_record
from dermserve.models.weights import WeightsError, load_weights, weights_digest

WEIGHTS = "weights.weights.h5"
EXPERIMENT = "experiment.json"
SPLIT = "split.csv"
HISTORY = "history.json"
SUMMARY = "run.json"
COMPACT = "weights.npz"
DISTANCE = "distance.npz"
FIGURES = "figures.npz"

Kind: TypeAlias = Literal["int8", "float16"]
"""What compact kernels are; vectors stay float32."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A folder that `dermserve train` has finished writing."""

    folder: Path

    def __post_init__(self) -> None:
        missing = [name for name in (EXPERIMENT, SPLIT, SUMMARY) if not (self.folder / name).is_file()]
        if missing or not (self.compact.is_file() or (self.folder / WEIGHTS).is_file()):
            what = missing[0] if missing else WEIGHTS
            raise RunError(f"{self.folder} lacks {what}: pass the folder of a run that `dermserve train` has finished")

    @property
    def compact(self) -> Path:
        """Where compact weights lie, once packed; they are used instead of the full ones."""
        return self.folder / COMPACT

    @property
    def weights(self) -> Path:
        """The file of the run's weights: compact ones where there are."""
        return self.compact if self.compact.is_file() else self.folder / WEIGHTS

    @property
    def tflite(self) -> Path:
        """Where the run's TensorFlow Lite model lies, once converted."""
        return self.folder / "model.tflite"

    @cached_property
    def experiment(self) -> Experiment:
        """What the run did."""
        return parse_record(read_json(self.folder / EXPERIMENT), str(self.folder))

    @property
    def model(self) -> str:
        """Key of SPECS."""
        return self.experiment.model

    @cached_property
    def split(self) -> dict[str, Recorded]:
        """What each photo was for, by its path within the data set."""
        return read_split(self.folder / SPLIT)

    @property
    def summary(self) -> dict[str, Any]:
        """run.json."""
        return dict(read_json(self.folder / SUMMARY))

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every epoch."""
        return list(read_json(self.folder / HISTORY))

    @property
    def calibration(self) -> dict[str, Any]:
        """Temperature and thresholds; a RunError when they are not fitted yet."""
        found = self.summary.get("calibration")
        if found is None:
            raise RunError(f"{self.folder} is not calibrated: run `dermserve evaluate` on the data it was trained from")
        return dict(found)

    @property
    def shift(self) -> NDArray[np.float64]:
        """What is added to the logits for the classes' real frequencies; float64 [C]."""
        return np.asarray(self.summary.get("prior_shift", np.zeros(len(SPECS[self.model].classes))))

    @property
    def distance(self) -> FeatureDistance:
        """The out-of-distribution score."""
        return load_distance(self.folder / DISTANCE)

    def network(self, *, shifted: bool = True, full: bool = False) -> keras.Model:
        """Build the network with the run's weights: compact ones where there are, unless `full` ones are asked for.

        When `shifted`, the prior shift is in the last bias, as exported.
        """
        network = build_network(self.experiment)
        if self.compact.is_file() and not full:
            load_compact(network, self.compact)
        else:
            try:
                load_weights(network, self.folder / WEIGHTS)
            except WeightsError as error:
                raise RunError(str(error)) from error
        if shifted:
            bias = network.get_layer("logits").bias
            bias.assign(np.asarray(bias) + self.shift.astype(np.float32))
        return network

    def unseen(self, sample: Sample) -> bool:
        """Tell whether the run has trained or validated on no photo of a sample's lesion, nor on the photo itself.

        Another data set may have the photo in another folder, at another size, and without lesion ids: what has the
        bytes, the file name or the lesion of a photo that was used is taken to be seen.
        """
        return self._used.isdisjoint((sample.lesion, sample.digest, sample.path.stem))

    @cached_property
    def _used(self) -> set[str]:
        """Lesions that trained or validated, and the digests and file stems of all their photos."""
        lesions = {photo.lesion for photo in self.split.values() if photo.part is not Part.TEST}
        photos = [(name, photo.digest) for name, photo in self.split.items() if photo.lesion in lesions]
        return lesions.union(*((PurePosixPath(name).stem, digest) for name, digest in photos))

    def update(self, **values: Any) -> None:
        """Replace entries of run.json."""
        write_json(self.folder / SUMMARY, {**self.summary, **values})


def save_compact(network: keras.Model, file: Path, *, kind: Kind) -> None:
    """Write a network's weights, in model order and with kernels of a kind, as a compressed .npz."""
    arrays: dict[str, Any] = {}
    for index, variable in enumerate(network.weights):
        value = np.asarray(variable, np.float32)
        if value.ndim < 2:
            arrays[f"{index}"] = value
        elif kind == "float16":
            arrays[f"{index}"] = value.astype(np.float16)
        else:
            arrays[f"{index}.int8"], arrays[f"{index}.scale"] = quantize(value)
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_compact(network: keras.Model, file: Path) -> None:
    """Set a network's weights from what `save_compact` wrote; a RunError where it is missing, damaged or another's."""
    try:
        with np.load(file) as arrays:
            network.set_weights([_restored(arrays, index) for index in range(len(network.weights))])
    except DAMAGED as error:
        raise RunError(f"{file} does not hold compact weights of {network.name}: {error}") from error


def quantize(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a kernel to int8 in -127..127, with a float32 scale for each output channel that broadcasts to it.

    A depthwise kernel [h, w, channels, 1] has its output channels on the axis before the last.
    """
    axis = value.ndim - 2 if value.shape[-1] == 1 else value.ndim - 1
    others = tuple(index for index in range(value.ndim) if index != axis)
    largest = np.abs(value).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(value / scale).astype(np.int8), scale


def _restored(arrays: "np.lib.npyio.NpzFile", index: int) -> NDArray[np.float32]:
    if f"{index}" in arrays:
        return np.asarray(arrays[f"{index}"], np.float32)
    return np.asarray(arrays[f"{index}.int8"] * arrays[f"{index}.scale"], np.float32)


def save_distance(distance: FeatureDistance, file: Path) -> None:
    """Write a distance."""
    values = dataclasses.asdict(distance).items()
    arrays: dict[str, Any] = {name: value for name, value in values if value is not None}
    np.savez_compressed(file, **arrays)


def load_distance(file: Path) -> FeatureDistance:
    """Read what `save_distance` wrote; a RunError where it is missing or damaged."""
    try:
        with np.load(file) as arrays:
            return FeatureDistance(
                centers=arrays["centers"],
                projection=arrays["projection"],
                unit=bool(arrays["unit"]),
                scope=arrays.get("scope"),
                limit=float(arrays.get("limit", 0.0)),
            )
    except DAMAGED as error:
        raise RunError(f"{file} can't be read ({error}): run `dermserve evaluate` again") from error


def claim_test(
    run: FinishedRun,
    network: keras.Model,
    calibration: Mapping[str, Any],
    shift: NDArray[np.float64],
    again: str | None,
) -> None:
    """Note in the run, before test photos are looked at, what is measured on them; "tested" in run.json.

    Test photos are measured once. The same weights with the same fitted numbers (the calibration, and the shift of the
    logits, float64 [C]) may be measured any number of times, which gives the same figures. For others than those before
    there is a RunError, unless `again` gives a reason.
    """
    looks = list(run.summary.get("tested", []))
    mine = {
        "weights": weights_digest(network),
        "fitted": json_digest([_rounded(calibration), _rounded(shift.tolist())]),
    }
    if looks and {key: looks[-1][key] for key in mine} == mine:
        return
    if looks and not again:
        changed = "weights" if looks[-1]["weights"] != mine["weights"] else "thresholds"
        raise RunError(
            f"test photos of {run.folder} were measured with other {changed}: figures of a second choice flatter. "
            "Train another run, or pass --again REASON, which run.json and the card keep"
        )
    run.update(tested=[*looks, {**mine, "reason": again if looks else "the first"}])


def _rounded(value: Any) -> Any:
    """Round numbers in JSON values to four digits, as processors round the rest otherwise; words do not count."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items() if not isinstance(item, str)}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return f"{value:.4g}"


def describe_tests(run: FinishedRun) -> str:
    """Say how often test photos were measured with other weights or thresholds, and why."""
    looks = run.summary.get("tested", [])
    if len(looks) < 2:
        return "test photos measured once"
    reasons = "; ".join(look["reason"] for look in looks[1:])
    return f"test photos measured with {len(looks)} choices of weights or thresholds, after the first for: {reasons}"
