"""The checkpoint of a training, written after each epoch, and the fingerprint that says what it belongs to."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dermserve.models.durable import replacing, sync
from dermserve.models.training import errors
from dermserve.models.training.data.splits import Part, Sample
from dermserve.models.training.train.dataset import Data
from dermserve.models.training.train.experiment import Experiment

_FINGERPRINT = "fingerprint.json"
_NAME = "checkpoint.npz"

Epoch: TypeAlias = dict[str, Any]
"""What came of one epoch: stage and epoch, from 1; the learning rate at its end; loss and accuracy of training photos,
as they are augmented and weighted, and validation_… of the averaged weights where the stage averages; seconds."""


@dataclass(kw_only=True, slots=True)
class State:
    """The state of a training after an epoch."""

    stage: int  # index of the current stage
    epoch: int = 0  # finished epochs of the stage
    best_score: float = math.inf  # lowest validation loss of the stage, or its highest accuracy, negated
    best_epoch: int = 0  # its epoch, from 1; 0 before any
    best: list[NDArray[Any]] | None = None  # weights after the best epoch, if the stage restores them
    history: list[Epoch] = field(default_factory=list)  # every epoch so far
    variables: list[NDArray[Any]] = field(default_factory=list)  # of the network, the optimiser and the moving average


def fingerprint(
    experiment: Experiment,
    parts: Mapping[Sample, Part],
    backbone: Path | str | None,
    teachers: Sequence[Path] = (),
    others: Data | None = None,
) -> dict[str, str]:
    """Return the fingerprint of a training. A photo counts by path within the data set, bytes, class and lesion."""
    ordered = sorted(parts, key=lambda sample: sample.name)
    return {
        "experiment": errors.json_digest([asdict(experiment)]),
        "photos": errors.json_digest([[sample.name, sample.digest, sample.label, sample.lesion] for sample in ordered]),
        "split": errors.json_digest([[sample.name, parts[sample].value] for sample in ordered]),
        "initial weights": errors.file_digest(backbone) if isinstance(backbone, Path) else backbone or "random",
        "teachers": errors.json_digest(sorted(errors.file_digest(teacher) for teacher in teachers)),
        "other lesions": errors.json_digest([sample.name for sample in others.samples] if others else []),
    }


@contextmanager
def claimed(folder: Path, mine: Mapping[str, str]) -> Iterator[None]:
    """Make a run's folder, and hold it. Raises RunError, before anything is written: another training has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FINGERPRINT
    with errors.locked(folder):
        if path.is_file() or (folder / _NAME).is_file():
            found = errors.read_json(path)
            if other := " and ".join(key for key, value in mine.items() if found.get(key) != value):
                what = f"{path} is of a training with another {other}"
                raise errors.RunError(f"{what}: pass the same again, or another --out")
        else:
            errors.write_json(path, dict(mine))
        yield


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in a folder, atomically."""
    values = {key: getattr(state, key) for key in ("stage", "epoch", "history", "best_score", "best_epoch")}
    arrays: dict[str, Any] = {f"v{index}": value for index, value in enumerate(state.variables)}
    arrays |= {f"b{index}": value for index, value in enumerate(state.best or ())}
    with replacing(folder / _NAME) as partial:
        np.savez(partial, meta=np.array(json.dumps(values)), **arrays)
        sync(partial)


def load(folder: Path) -> State | None:
    """Load the checkpoint of a folder, or None. Raises RunError: it is damaged."""
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        arrays = errors.read_arrays(path)
        best, variables = ([arrays[key] for key in arrays if key.startswith(kind)] for kind in "bv")
        return State(**json.loads(str(arrays["meta"])), variables=variables, best=best or None)
    except errors.DAMAGED as error:
        raise errors.RunError(f"{path} is damaged ({error}): remove it to start again") from error
