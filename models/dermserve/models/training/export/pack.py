"""Packing a run: its weights in a quarter or half of the space, kernels as int8 or float16, vectors as float32.

int8 is symmetric with a scale for each output channel, as in Jacob et al., CVPR 2018, of the weights alone; loading
gives float32 again, so the network computes as before. What that costs is measured on validation photos when a run is
packed.
"""

import functools
from pathlib import Path
from typing import Any

from dermserve.models.training.data.splits import Part
from dermserve.models.training.evaluate.predictions import frozen_function, run_views
from dermserve.models.training.train.finished import FinishedRun, Kind, save_compact
from dermserve.models.training.train.loop import Progress
from dermserve.models.training.train.run import finished_data


def pack(run: FinishedRun, data: Path, *, kind: Kind, cache: Path, progress: Progress) -> dict[str, Any]:
    """Write a run's compact weights, and measure them against the full ones by one view of its validation photos.

    From then on the compact weights are the run's: evaluate it again, so that its calibration is of what ships.

    Returns:
        JSON values: bytes, accuracy before and after, and the share of equal answers; also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
    """
    photos = finished_data(run.experiment, data, run.split, cache=cache).without_test().part(Part.VALIDATION)
    full = run.network(full=True)
    save_compact(full, run.compact, kind=kind)
    answers = []
    for name, network in (("full", full), ("compact", run.network())):
        outputs = run_views(frozen_function(network), photos, progress=functools.partial(progress, name))
        answers.append(outputs.logits[:, 0].argmax(axis=1))
    found = {
        "kind": kind,
        "bytes": run.compact.stat().st_size,
        "accuracy_full": float((answers[0] == photos.labels).mean()),
        "accuracy_compact": float((answers[1] == photos.labels).mean()),
        "agreement": float((answers[0] == answers[1]).mean()),
    }
    run.update(packed=found)
    return found
