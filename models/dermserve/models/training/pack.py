"""Packing a run: its weights made compact, and what that costs measured on test photos."""

from pathlib import Path
from typing import Any

import numpy as np

from dermserve.models.catalogue import SPECS
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.compact import save_compact
from dermserve.models.training.errors import DataError
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.layouts import read_samples
from dermserve.models.training.loop import Labelled, Progress
from dermserve.models.training.predict import predict
from dermserve.models.training.splits import Part


def pack(run: FinishedRun, data: Path, *, cache: Path, progress: Progress) -> dict[str, Any]:
    """Write a run's compact weights, and measure them against the full ones on its test photos, one view, float32.

    From then on the compact weights are the run's: evaluate it again, so that its calibration is of what ships.

    Returns:
        JSON values: bytes, accuracy before and after, and the share of equal answers; also in run.json.

    Raises:
        DataError: none of the run's test photos is in the data.
    """
    codes = [item.code for item in SPECS[run.model].classes]
    tested = [s for s in read_samples(data, codes) if run.split.get(s.name, ("", None))[1] is Part.TEST]
    if not tested:
        raise DataError(f"{data} holds none of the run's test photos: pass the data it was trained from")
    labels = np.asarray([sample.label for sample in tested], np.int64)
    pixels = load_pixels(tested, folder=cache, side=SPECS[run.model].input_side)
    photos = Labelled(pixels, np.arange(len(tested)), labels)
    full = run.network(full=True)
    save_compact(full, run.compact)
    answers = []
    for name, network in (("full", full), ("compact", run.network())):
        done = 0

        def advance(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            progress(name, done, len(photos))

        answers.append(predict(network, photos, views=("identity",), progress=advance).logits[:, 0].argmax(axis=1))
    found = {
        "bytes": run.compact.stat().st_size,
        "accuracy_full": float((answers[0] == labels).mean()),
        "accuracy_compact": float((answers[1] == labels).mean()),
        "agreement": float((answers[0] == answers[1]).mean()),
    }
    run.update(packed=found)
    return found
