"""The folder of a finished run: its network, split, calibration, and measurements of test photos."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.contract import SCHEMA_VERSION
from dermserve.models.architectures import fitting, weights_digest
from dermserve.models.catalogue import SPECS
from dermserve.models.durable import replacing
from dermserve.models.graph import FeatureDistance
from dermserve.models.training.data.splits import Part, Recorded, Sample, read_split
from dermserve.models.training.errors import RunError, file_digest, json_digest, read_arrays, read_json, write_json
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.experiment import Experiment, parse_record

WEIGHTS = "weights.npz"
FULL = "weights.full.npz"  # full weights, once WEIGHTS are compact
EXPERIMENT = "experiment.json"
SPLIT = "split.csv"
HISTORY = "history.json"
SUMMARY = "run.json"
DISTANCE = "distance.npz"
TFLITE = "model.tflite"

Kind: TypeAlias = Literal["float32", "int8", "float16"]  # type of kernels; vectors stay float32


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A folder that `dermserve train` has finished writing."""

    folder: Path

    def __post_init__(self) -> None:
        for name in (EXPERIMENT, SPLIT, SUMMARY, HISTORY, WEIGHTS):
            if not (self.folder / name).is_file():
                lacking = f"{self.folder} lacks {name}"
                raise RunError(f"{lacking}: pass the folder of a run that `dermserve train` has finished")

    @property
    def weights(self) -> Path:
        """File of the weights: full ones, or compact ones once it is packed."""
        return self.folder / WEIGHTS

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment that was run."""
        path = self.folder / EXPERIMENT
        return parse_record(read_json(path), f"{path} is not what this dermserve writes: experiment")

    @property
    def model(self) -> str:
        """Key of SPECS."""
        return self.experiment.model

    @cached_property
    def split(self) -> dict[str, Recorded]:
        """Lesion, part and digest of each photo, by its path within the data set."""
        return read_split(self.folder / SPLIT)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of run.json."""
        return dict(read_json(self.folder / SUMMARY))

    @property
    def calibration(self) -> dict[str, Any]:
        """Temperature and thresholds. Raises RunError: they are not fitted yet."""
        return self.evaluated("calibration")

    def evaluated(self, key: str) -> dict[str, Any]:
        """Return what `dermserve evaluate` wrote into run.json under a key.

        Raises RunError: it has not yet, or it was one for cards in which a number may mean something else.
        """
        summary, needed = self.summary, "run `dermserve evaluate` on the data it was trained from"
        if summary.get(key) is None:
            raise RunError(f"{self.folder} is not calibrated: {needed}")
        if (schema := summary.get("schema_version")) != SCHEMA_VERSION:
            what = f"calibrated for cards of schema version {schema or 'unknown'}, not of {SCHEMA_VERSION}"
            raise RunError(f"{self.folder} is {what}: {needed} again")
        return dict(summary[key])

    @property
    def shift(self) -> NDArray[np.float64]:
        """What is added to the logits, float64 [C]."""
        return np.asarray(self.summary.get("prior_shift", np.zeros(len(SPECS[self.model].classes))))

    @property
    def distance(self) -> FeatureDistance:
        """The out-of-distribution score. Raises RunError: it is missing, or not that of the calibration."""
        file = self.folder / DISTANCE
        with contextlib.suppress(FileNotFoundError, TypeError):  # TypeError: other code wrote it
            if file_digest(file) == self.summary.get("distance"):
                values: dict[str, Any] = dict(read_arrays(file))
                return FeatureDistance(
                    **{name: found if found.ndim else found.item() for name, found in values.items()}
                )
        raise RunError(f"{file} is not what the last `dermserve evaluate` wrote: run it again")

    def network(self, experiment: Experiment | None = None, *, shifted: bool = True) -> keras.Model:
        """Build the network, or that of an experiment that continues it; `shifted` adds `shift` to the last bias."""
        network = build_network(experiment or self.experiment)
        load_weights(network, self.weights)
        if shifted:
            bias = network.get_layer("logits").bias
            bias.assign(np.asarray(bias) + self.shift.astype(np.float32))
        return network

    def unseen(self, sample: Sample) -> bool:
        """Tell whether neither photo nor lesion trained or validated the run, by lesion, bytes and file name."""
        return self._used.isdisjoint((sample.lesion, sample.digest, sample.path.stem))

    @cached_property
    def _used(self) -> set[str]:
        lesions = {photo.lesion for photo in self.split.values() if photo.part is not Part.TEST}
        photos = [(name, photo.digest) for name, photo in self.split.items() if photo.lesion in lesions]
        return lesions.union(*((PurePosixPath(name).stem, digest) for name, digest in photos))

    def update(self, **values: Any) -> None:
        """Replace entries of run.json."""
        write_json(self.folder / SUMMARY, {**self.summary, **values})


def save_weights(network: keras.Model, file: Path, *, kind: Kind = "float32") -> None:
    """Write weights as .npz; with int8, small kernels stay float16: those of early layers, whose rounding all see."""
    arrays: dict[str, Any] = {}
    small = sum(variable.shape.num_elements() for variable in network.weights) / 100
    for index, variable in enumerate(network.weights):
        value = np.asarray(variable, np.float32)
        if value.ndim < 2 or kind == "float32":
            arrays[f"{index}"] = value
        elif kind == "float16" or value.size < small:
            arrays[f"{index}"] = value.astype(np.float16)
        else:
            arrays[f"{index}.int8"], arrays[f"{index}.scale"] = quantize(value)
    with replacing(file) as partial:
        np.savez_compressed(partial, **arrays)


def load_weights(network: keras.Model, file: Path) -> None:
    """Load what `save_weights` wrote. Raises RunError: it is missing, damaged or of another network."""
    with fitting(str(file), network.name):
        arrays = read_arrays(file)
        names = [str(index) for index in range(len(network.weights))]
        network.set_weights([arrays[n] if n in arrays else arrays[f"{n}.int8"] * arrays[f"{n}.scale"] for n in names])


def quantize(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a kernel to int8 in -127..127, with a float32 scale for each output channel."""
    axis = value.ndim - 2 if value.shape[-1] == 1 else value.ndim - 1
    others = tuple(index for index in range(value.ndim) if index != axis)
    largest = np.abs(value).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(value / scale).astype(np.int8), scale


def save_distance(distance: FeatureDistance, file: Path) -> None:
    """Write a distance."""
    arrays = {name: value for name, value in dataclasses.asdict(distance).items() if value is not None}
    with replacing(file) as partial:
        np.savez_compressed(partial, **arrays)


def claim_test(
    run: FinishedRun,
    network: keras.Model,
    calibration: Mapping[str, Any],
    shift: NDArray[np.float64],
    again: str | None,
) -> None:
    """Write digests of the weights and fitted numbers to "tested" in run.json, before test photos are read.

    Raises RunError: others were measured before, and `again` gives no reason.
    """
    looks = list(run.summary.get("tested", []))
    numbers = [{key: value for key, value in calibration.items() if key != "method"}, shift.tolist()]
    # To four digits, because processors differ in the rest.
    fitted = json_digest(json.loads(json.dumps(numbers), parse_float=lambda text: f"{float(text):.4g}"))
    mine = {"weights": weights_digest(network), "fitted": fitted}
    if looks and {key: looks[-1][key] for key in mine} == mine:
        return
    if looks and not again:
        changed = "weights" if looks[-1]["weights"] != mine["weights"] else "thresholds"
        what = f"test photos of {run.folder} were measured with other {changed}: figures chosen among several"
        raise RunError(f"{what} are too good. Train another run, or pass --again REASON, which the card keeps")
    run.update(tested=[*looks, {**mine, "reason": again if looks else "the first"}])


def describe_tests(run: FinishedRun) -> str:
    """Say how often test photos were measured with other weights or thresholds, and why, for the card."""
    looks = run.summary.get("tested", [])
    if len(looks) < 2:
        return "test photos measured once"
    reasons = "; ".join(look["reason"] for look in looks[1:])
    return f"test photos measured with {len(looks)} choices of weights or thresholds, after the first for: {reasons}"
