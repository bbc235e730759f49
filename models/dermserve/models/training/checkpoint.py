"""The checkpoint of a training: all that changes, written whole after each epoch."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.models.training.errors import RunError
from dermserve.models.training.experiment import Experiment

_NAME = "checkpoint.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a training stands."""

    stage: int
    """Index of the stage under way."""
    epoch: int
    """Epochs of it that are done."""
    history: list[dict[str, Any]]
    """Every epoch so far, as loop.Epoch."""
    variables: list[NDArray[Any]]
    """Of the network, the optimiser and the moving average."""
    best: list[NDArray[Any]] | None
    """The network's weights after the best epoch, where the stage keeps those."""
    best_score: float
    """Lowest validation loss of the stage so far, or its highest validation accuracy, negated: what it monitors."""
    best_epoch: int
    """When it was reached, from 1; 0 before."""


def save(folder: Path, experiment: Experiment, state: State) -> None:
    """Replace the checkpoint in a folder, atomically."""
    values = asdict_shallow(state)
    arrays: dict[str, Any] = {f"v{index}": value for index, value in enumerate(state.variables)}
    arrays |= {f"b{index}": value for index, value in enumerate(state.best or ())}
    values |= {"experiment": fingerprint(experiment), "best_count": len(state.best or ())}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{_NAME}.partial"
    with partial.open("wb") as file:
        np.savez(file, meta=np.array(json.dumps(values)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / _NAME)


def load(folder: Path, experiment: Experiment) -> State | None:
    """Load the checkpoint of a folder, or None where there is none.

    Raises:
        RunError: it is of another experiment, or damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            values = json.loads(str(arrays["meta"]))
            same = values.pop("experiment") == fingerprint(experiment)
            best = [arrays[f"b{index}"] for index in range(values.pop("best_count"))] or None
            variables = [arrays[f"v{index}"] for index in range(values.pop("variable_count"))]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}): remove it to start anew") from error
    if not same:
        raise RunError(f"{path} is of another experiment: pass another --out, or remove it to start anew")
    return State(**values, variables=variables, best=best)


def fingerprint(experiment: Experiment) -> str:
    """Identify an experiment: all of its fields, as JSON."""
    return json.dumps(asdict(experiment), sort_keys=True)


def asdict_shallow(state: State) -> dict[str, Any]:
    """List what of a state goes into JSON."""
    return {
        "stage": state.stage,
        "epoch": state.epoch,
        "history": state.history,
        "best_score": state.best_score,
        "best_epoch": state.best_epoch,
        "variable_count": len(state.variables),
    }
