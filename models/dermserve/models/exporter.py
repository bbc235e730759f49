"""Export a run, or a model with other weights, as a version of a store. Takes seconds to import, as TensorFlow does."""

import dataclasses
import datetime
import importlib.metadata
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

from dermserve.contract import SCHEMA_VERSION, CardError, Input, render_card
from dermserve.imaging import STANDARD_VIEWS
from dermserve.models import records
from dermserve.models.architectures import build, fitting, weights_digest
from dermserve.models.catalogue import SPECS, Spec
from dermserve.models.graph import FeatureDistance, freeze_core, signatures
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.lifecycle.manifest import sign_version, write_manifest
from dermserve.models.lifecycle.stores import Entry, new_entry, open_store
from dermserve.models.training.errors import RunError, TrainingError, plain_name
from dermserve.models.training.train.finished import SUMMARY, TFLITE, FinishedRun, describe_tests
from dermserve.models.verify import VerificationError, open_version, verify
from dermserve.v1 import card_pb2


def export(
    source: Path | str, store: Path | str, *, graph: str = "frozen", sign: Path | None = None, **how: Any
) -> Entry:
    """Write a run, or a model with weights of unknown training, into the store as a version; return its audit entry.

    `source` is the run's folder, or the model's name with what `_model_content` takes. `graph` is "frozen" or
    "folded-variables", `sign` the PEM file of a private key. Raises LifecycleError: the version could not be made.
    """
    tf.get_logger().setLevel(logging.ERROR)
    try:
        content = run_content(source) if isinstance(source, Path) else _model_content(source, **how)
        return write_version(dataclasses.replace(content, frozen=graph == "frozen"), store, sign=sign)
    except (CardError, VerificationError, TrainingError, LifecycleError, tf.errors.ResourceExhaustedError) as error:
        raise LifecycleError(f"{source}: {error}" if isinstance(source, str) else str(error)) from error
    except UnicodeEncodeError as error:
        raise LifecycleError(f"{store}: TensorFlow takes paths in UTF-8 alone") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that a version is made from."""

    network: keras.Model  # what architectures.build returns, with its weights; its name is the model's
    provenance: card_pb2.Provenance  # where the weights come from; `exported_at` and `exporter` are filled in
    calibration: card_pb2.Calibration | None = None  # temperature and thresholds, once fitted
    profile: card_pb2.Profile | None = None  # what photos and answers looked like at calibration, once measured
    distance: FeatureDistance | None = None  # out-of-distribution score; the energy when None
    tflite: bytes | None = None  # model.tflite, which gets the card and is stored beside the SavedModel
    frozen: bool = True  # whether the graph holds the weights as constants, which is fastest, or as variables

    @property
    def scoring(self) -> dict[str, Any]:
        """Temperature and distance, as arguments of freeze_core and source_digest."""
        return {"temperature": self.calibration.temperature if self.calibration else 1.0, "distance": self.distance}


def _model_content(model: str, *, weights: Path | None = None, backbone: str | None = None) -> Content:
    """Build a model with weights of all or the backbone (a file, "imagenet"); the rest is random, always the same."""
    keras.utils.set_random_seed(0)
    network = build(model, backbone_weights=backbone)
    if weights is not None:
        with fitting(str(weights), model):
            network.load_weights(weights)
    origin = f"file {plain_name(weights)}" if weights else "random (seed 0)"
    if backbone is not None:
        origin = f"backbone {plain_name(Path(backbone))}, head {origin}"
    provenance = card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization=origin)
    return Content(network=network, provenance=provenance)


def run_content(folder: Path) -> Content:
    """Read a finished and evaluated run. Raises RunError: it is not one, or it is a teacher's."""
    run = FinishedRun(folder)
    if run.experiment.teacher is not None:
        raise RunError(f"{folder} holds a teacher ({run.experiment.teacher}), which is never exported: use its student")
    try:
        facts, calibration = run.summary, run.calibration
        said = [calibration.get("method", "method not stated"), describe_tests(run)]
        content = Content(
            network=run.network(),
            provenance=card_pb2.Provenance(
                training=card_pb2.TRAINING_TRAINED,
                initialization=facts["initialization"],
                data=facts["data"],
                license=facts["license"],
                metrics=_metrics(run),
            ),
            calibration=card_pb2.Calibration(**calibration | {"method": "; ".join(said)}),
            profile=json_format.ParseDict(facts["profile"], card_pb2.Profile()) if "profile" in facts else None,
            distance=run.distance,
            tflite=tflite.read_bytes() if (tflite := run.folder / TFLITE).is_file() else None,
        )
    except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
        what = f"{folder / SUMMARY} has not what this dermserve writes ({error!r})"
        raise RunError(f"{what}: run `dermserve evaluate` again") from error
    if run.summary != facts:  # the score or the weights may be of another calibration
        raise RunError(f"{folder} was changed by another command meanwhile: export it again")
    return content


def _metrics(run: FinishedRun) -> dict[str, float]:
    split = "grouped" if run.experiment.protocol == "lesion" else "by_image"
    measured = run.summary["metrics"]["test"]
    single, verdict = measured["single"], measured["verdict"]
    figures = {
        **{name: single[name] for name in ("accuracy", "balanced_accuracy", "ece")},
        **{f"{name}_tta": measured["tta"][name] for name in ("accuracy", "balanced_accuracy")},
        **dict(zip(("accuracy_low", "accuracy_high"), single["accuracy_95"], strict=True)),
        **{name: verdict[name] for name in ("abstained", "confident", "malignant_confidently_benign")},
    }
    return {f"{name}_{split}": value for name, value in figures.items() if value is not None}


def write_version(content: Content, base: Path | str, *, sign: Path | None = None) -> Entry:
    """Export a version into a store; return its audit entry. It appears only once every signature has been checked."""
    spec, store = SPECS[content.network.name], open_store(base)
    card = _make_card(content, spec)
    if (tflite := content.tflite) is not None:
        if records.read_file(tflite, records.SOURCE) != records.source_digest(content.network, **content.scoring):
            raise VerificationError(
                "model.tflite was converted from other weights or before the last `dermserve evaluate`: its answers are"
                " not those of this version. Convert it again with `dermserve tflite`, or delete it from the run"
            )
        tflite = records.with_files(tflite, {records.CARD: render_card(card)})
    sys.dont_write_bytecode = True  # else AutoGraph, which imports modules that it writes, leaves a folder in TMPDIR
    with store.staged(spec.name) as staging:
        _save(content, card, spec, staging)
        records.write_warmup_records(staging, model=spec.name, side=spec.input_side)
        if tflite is not None:
            (staging / TFLITE).write_bytes(tflite)
        with open_version(staging) as loaded:
            verify(loaded)
            records.write_golden_predictions(staging, loaded, model=spec.name, side=spec.input_side)
        about = {
            "exported_at": card.provenance.exported_at,
            "exporter": card.provenance.exporter,
            "training": card_pb2.Training.Name(card.provenance.training).removeprefix("TRAINING_"),
            "weights_digest": card.weights_digest,
        }
        manifest = write_manifest(staging, model=spec.name, about=about)
        if sign is not None:
            sign_version(staging, sign)
        version = store.publish(staging, spec.name)
    more = {"digest": manifest.digest, "weights_digest": card.weights_digest}
    entry = new_entry("publish", spec.name, None, version, **more)
    store.append_audit(json.dumps(entry))
    return entry


def _make_card(content: Content, spec: Spec) -> card_pb2.Card:
    side = spec.input_side
    card = card_pb2.Card(
        schema_version=SCHEMA_VERSION,
        model=spec.name,
        classes=spec.classes,
        input=card_pb2.InputSpec(height=side, width=side, fit=card_pb2.FIT_CENTER_CROP),
        views=STANDARD_VIEWS,
        parameters=content.network.count_params(),
        weights_digest=weights_digest(content.network),
        provenance=content.provenance,
        calibration=content.calibration,
        profile=content.profile,
    )
    now = datetime.datetime.now(datetime.UTC)
    card.provenance.exported_at = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    card.provenance.exporter = f"dermserve {importlib.metadata.version('dermserve')}"
    return card


def _save(content: Content, card: card_pb2.Card, spec: Spec, folder: Path) -> None:
    core = freeze_core(content.network, frozen=content.frozen, **content.scoring)
    module = tf.Module()
    module.core = core.tracked  # type: ignore[attr-defined]  # what the signatures call must be tracked
    functions = signatures(core, side=spec.input_side, views=card.views, card=render_card(card))
    tf.saved_model.save(module, str(folder), signatures=functions)
    # State the size of images in the metadata of the signatures; the placeholders must not (graph.py).
    file, side = folder / "saved_model.pb", spec.input_side
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for definition in saved.meta_graphs[0].signature_def.values():
        if Input.IMAGES in definition.inputs:
            definition.inputs[Input.IMAGES].tensor_shape.CopyFrom(tf.TensorShape([None, side, side, 3]).as_proto())
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))  # the fingerprint that `save` wrote is of the former file
