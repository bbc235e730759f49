"""Write a version: export a network, check the SavedModel, and move it into the store."""

import dataclasses
import datetime
import importlib.metadata
import pathlib
from dataclasses import dataclass

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

from dermserve.contract import SCHEMA_VERSION, Input, render_card
from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.associated_files import CARD, SOURCE, read_file, source_digest, with_files
from dermserve.models.catalogue import SPECS, Spec
from dermserve.models.graph import FeatureDistance, Weights, freeze_core, signatures
from dermserve.models.lifecycle.manifest import sign_version, write_manifest
from dermserve.models.lifecycle.stores import Entry, open_store
from dermserve.models.quiet import no_bytecode
from dermserve.models.records import write_golden_predictions, write_warmup_records
from dermserve.models.verify import VerificationError, open_version, verify
from dermserve.models.weights import weights_digest
from dermserve.v1 import card_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that a version is made from."""

    network: keras.Model
    """What architectures.build returns, with its weights; its name is the model's."""
    provenance: card_pb2.Provenance
    """Where the weights come from; `exported_at` and `exporter` are filled in."""
    calibration: card_pb2.Calibration | None = None
    """Temperature and thresholds, once fitted."""
    profile: card_pb2.Profile | None = None
    """What photos and answers looked like at calibration, once measured."""
    distance: FeatureDistance | None = None
    """Out-of-distribution score; the energy when None."""
    tflite: bytes | None = None
    """model.tflite, which gets the card and is stored beside the SavedModel."""
    weights: Weights = Weights.FROZEN
    """How the graph holds the weights."""

    @property
    def temperature(self) -> float:
        """The logits are divided by it."""
        return self.calibration.temperature if self.calibration else 1.0


def write_version(content: Content, base: pathlib.Path | str, *, sign: pathlib.Path | None = None) -> int:
    """Export a version into a store, and return its number. It appears only once every signature has been checked.

    Args:
        content: what it is made from.
        base: path or URL of the store.
        sign: PEM file of the private key to sign it with.

    Raises:
        CardError: the content does not make a valid card.
        VerificationError: the export does not keep the model contract.
        LifecycleError: the store can't be used.
        OSError: the store can't be written.
    """
    spec, store = SPECS[content.network.name], open_store(base)
    card = _make_card(content, spec)
    tflite = None if content.tflite is None else _with_card(content, content.tflite, card)
    with store.staged(spec.name) as staging, no_bytecode():
        _save(content, card, spec, staging)
        write_warmup_records(staging, model=spec.name, side=spec.input_side)
        if tflite is not None:
            (staging / "model.tflite").write_bytes(tflite)
        with open_version(staging) as loaded:
            verify(loaded)
            write_golden_predictions(staging, loaded, model=spec.name, side=spec.input_side)
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
    store.append_audit(Entry(what="publish", model=spec.name, before=None, after=version, more=more).json())
    return version


def _make_card(content: Content, spec: Spec) -> card_pb2.Card:
    side = spec.input_side
    card = card_pb2.Card(
        schema_version=SCHEMA_VERSION,
        model=spec.name,
        classes=[card_pb2.ClassInfo(**dataclasses.asdict(item)) for item in spec.classes],
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


def _with_card(content: Content, model: bytes, card: card_pb2.Card) -> bytes:
    """Add the card to a TensorFlow Lite model, which must have been converted from this content."""
    source = source_digest(content.network, temperature=content.temperature, distance=content.distance)
    if read_file(model, SOURCE) != source:
        raise VerificationError(
            "model.tflite was converted from other weights or before the last `dermserve evaluate`: its answers are not"
            " those of this version. Convert it again with `dermserve tflite`, or delete it from the run"
        )
    return with_files(model, {CARD: render_card(card)})


def _save(content: Content, card: card_pb2.Card, spec: Spec, folder: pathlib.Path) -> None:
    core = freeze_core(
        content.network, temperature=content.temperature, distance=content.distance, weights=content.weights
    )
    module = tf.Module()
    module.core = core.tracked  # type: ignore[attr-defined]  # what the signatures call must be tracked
    functions = signatures(core, side=spec.input_side, views=card.views, card=render_card(card))
    tf.saved_model.save(module, str(folder), signatures=functions)
    _declare_size(folder, side=spec.input_side)


def _declare_size(folder: pathlib.Path, *, side: int) -> None:
    """State the size of images in the metadata of the signatures; the placeholders must not (graph.py)."""
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for definition in saved.meta_graphs[0].signature_def.values():
        if Input.IMAGES in definition.inputs:
            definition.inputs[Input.IMAGES].tensor_shape.CopyFrom(tf.TensorShape([None, side, side, 3]).as_proto())
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))  # the fingerprint that `save` wrote is of the former file
