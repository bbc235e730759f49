"""One loaded version: a PredictRequest becomes the graph's inputs, and its outputs the answer."""

import argparse
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from dermserve.modelserver.errors import ServingError, failed_precondition, invalid_argument, not_found
from dermserve.modelserver.session import Session, Tensor, parse, render
from dermserve.tfserving.v1 import management_pb2, serving_pb2, session_pb2

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_DEFAULT_SIGNATURE = "serving_default"
_MAX_RECORDS = 1000
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
_logger = logging.getLogger(__name__)


def predict(session: Session, request: Any, *, timeout_ms: int, into: Any) -> None:
    """Answer a PredictRequest into the PredictResponse `into`, all but the model's name and version.

    A timeout of 0 waits for ever. If the graph fails, the error has the graph's own status.
    """
    name = request.model_spec.signature_name or _DEFAULT_SIGNATURE
    if name not in session.signatures:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    signature = session.signatures[name]
    feeds = _feeds(request.inputs, signature)
    aliases = _aliases(request.output_filter, signature)
    fetches = [signature.outputs[alias].name for alias in aliases]
    outputs = session.run(feeds, fetches=fetches, timeout_ms=timeout_ms)
    for alias, output in zip(aliases, outputs, strict=True):
        render(output, into=into.outputs[alias])
    into.model_spec.signature_name = name


def load(path: Path, *, flags: argparse.Namespace) -> Session:
    """Load the version in a directory and warm it up."""
    if not any((path / name).exists() for name in _MODEL_FILES):
        what = "Specified file path does not appear to contain a SavedModel bundle"
        raise not_found(f"{what} (should have a file called `saved_model.pb`)\nSpecified file path: {path}")
    config = session_pb2.ConfigProto(
        intra_op_parallelism_threads=flags.tensorflow_intra_op_parallelism,
        inter_op_parallelism_threads=flags.tensorflow_inter_op_parallelism,
    )
    session, count, started = Session(path, config=config), 0, time.monotonic()
    try:
        for log in read_requests(path) if flags.enable_model_warmup else ():
            count += 1
            if log.WhichOneof("log_type") == "predict_log":
                predict(session, log.predict_log.request, timeout_ms=0, into=serving_pb2.PredictResponse())
            else:
                _logger.warning("skipping a warm-up record of another call than Predict")
    except ServingError:
        session.close()
        raise
    if count:
        _logger.info("Warmed %s up: %d records in %.2f s", path, count, time.monotonic() - started)
    return session


def _feeds(inputs: Mapping[str, Any], signature: Any) -> dict[str, Tensor]:
    sent, expected = inputs.keys(), signature.inputs.keys()
    if len(sent) != len(expected):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_set(sent)}) != "
            f"len({_set(expected)}). Sent extra: {_set(sent - expected)}. "
            f"Missing but required: {_set(expected - sent)}."
        )
    feeds = {}
    for alias, info in sorted(signature.inputs.items()):
        if alias not in inputs:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(sent)}, or default input alias set: "
            )
        feeds[info.name] = parse(inputs[alias], alias=alias)
    return feeds


def _aliases(output_filter: Iterable[str], signature: Any) -> list[str]:
    chosen = list(output_filter)
    for alias in chosen:
        if alias not in signature.outputs:
            expected = f"Outputs expected to be in the set {_set(signature.outputs)}."
            raise invalid_argument(f"output tensor alias not found in signature: {alias} {expected}")
        if chosen.count(alias) > 1:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    return chosen or sorted(signature.outputs)


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def read_requests(directory: Path) -> Iterator[Any]:
    """Read the PredictionLogs in a version's warm-up file, a TFRecord with checksums, which are not checked."""
    path = directory / WARMUP_FILE
    content, offset = path.read_bytes() if path.exists() else b"", 0
    for number in itertools.count(1):
        if offset == len(content):
            return
        if number > _MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}")
        start = offset + 12
        end = start + int.from_bytes(content[offset : offset + 8], "little")
        if end + 4 > len(content):
            doubt = " (Is this even a TFRecord file?)" if offset == 0 else ""
            advice = "Please verify your warmup data is in TFRecord format."
            raise ServingError(grpc.StatusCode.DATA_LOSS, f"corrupted record at {offset}{doubt}. {advice}")
        offset = end + 4
        try:
            yield management_pb2.PredictionLog.FromString(content[start:end])
        except DecodeError as error:
            text = content[start:end].decode("utf-8", "replace")
            raise invalid_argument(f"Failed to parse warmup record: {text} from {path}") from error
