"""From a finished and calibrated run to what the exporter makes a version of."""

from pathlib import Path

from google.protobuf import json_format

from dermserve.models.training.errors import RunError
from dermserve.models.training.train.finished import FinishedRun, describe_tests
from dermserve.models.version import Content
from dermserve.v1 import card_pb2


def run_content(folder: Path) -> Content:
    """Read a run into what `version.write_version` takes: network, provenance, calibration, out-of-distribution score.

    Provenance names the data as whoever trained the run did: "data" and "license" of its run.json. A RunError says that
    there is no finished run, that it was not evaluated, or that it is a teacher's.
    """
    run = FinishedRun(folder)
    if run.experiment.teacher is not None:
        raise RunError(
            f"{folder} holds a teacher ({run.experiment.teacher}), which is never exported: export its student"
        )
    calibration = run.calibration
    facts, said = run.summary, [calibration.get("method", "method not stated"), describe_tests(run)]
    provenance = card_pb2.Provenance(
        training=card_pb2.TRAINING_TRAINED,
        initialization=facts["initialization"],
        data=facts["data"],
        license=facts["license"],
        metrics=_metrics(run),
    )
    return Content(
        network=run.network(),
        provenance=provenance,
        calibration=card_pb2.Calibration(**calibration | {"method": "; ".join(said)}),
        profile=json_format.ParseDict(facts["profile"], card_pb2.Profile()) if "profile" in facts else None,
        distance=run.distance,
        tflite=run.tflite.read_bytes() if run.tflite.is_file() else None,
    )


def _metrics(run: FinishedRun) -> dict[str, float]:
    split = "grouped" if run.experiment.protocol == "lesion" else "by_image"
    measured = run.summary["metrics"]["test"]
    single, tta, verdict = measured["single"], measured["tta"], measured["verdict"]
    figures = {
        "accuracy": single["accuracy"],
        "accuracy_low": single["accuracy_95"][0],
        "accuracy_high": single["accuracy_95"][1],
        "balanced_accuracy": single["balanced_accuracy"],
        "accuracy_tta": tta["accuracy"],
        "balanced_accuracy_tta": tta["balanced_accuracy"],
        "ece": single["ece"],
        **{name: verdict[name] for name in ("abstained", "confident", "malignant_confidently_benign")},
    }
    return {f"{name}_{split}": value for name, value in figures.items() if value is not None}
