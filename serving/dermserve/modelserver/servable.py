"""One version, loaded and warm: what a request is run against."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermserve.modelserver._protos import config_pb2, predict_pb2
from dermserve.modelserver.batching import Batching
from dermserve.modelserver.errors import ServingError, not_found
from dermserve.modelserver.lite import MODEL_FILE, LiteSession
from dermserve.modelserver.predict import predict
from dermserve.modelserver.session import Session
from dermserve.modelserver.warmup import read_requests

_logger = logging.getLogger(__name__)
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")


@dataclass(frozen=True)
class ServableOptions:
    """How versions are loaded and run."""

    session: Any
    """The ConfigProto of their sessions."""
    tags: tuple[str, ...]
    warmup: bool
    warmup_iterations: int
    batching: Batching | None
    prefer_lite: bool
    """Run `model.tflite` of a version that has one."""
    as_content: bool
    """Answer in `tensor_content` rather than in `float_val` and its kin."""


class Servable:
    """A loaded version. Any number of threads may call `predict`; `close` comes after the last of them."""

    def __init__(self, session: Session | LiteSession, *, directory: Path, options: ServableOptions) -> None:
        self.signatures: Mapping[str, Any] = session.signatures
        self._session = session
        self._options = options
        self._batcher = options.batching.wrap(self._session.run, directory=directory) if options.batching else None

    def predict(self, request: Any, *, timeout_ms: int, into: Any) -> None:
        """Answer a PredictRequest into the PredictResponse `into`, all but the model's name and version.

        Raises:
            ServingError: the request does not fit the signature, or the graph failed.
        """
        predict(
            request,
            signatures=self.signatures,
            run=self._batcher or self._session.run,
            timeout_ms=timeout_ms,
            as_content=self._options.as_content,
            into=into,
        )

    def warm_up(self, directory: Path) -> None:
        """Replay the version's warm-up records. Only those of Predict: the other calls are not served here.

        Raises:
            ServingError: a record is bad or fails.
        """
        count, started = 0, time.monotonic()
        for log in read_requests(directory):
            for _ in range(max(self._options.warmup_iterations, 1)):
                self._replay(log)
            count += 1
        if count:
            took = time.monotonic() - started
            _logger.info("Warmed %s up: %d records in %.2f s", directory, count, took)

    def close(self) -> None:
        """Free the session."""
        if self._batcher:
            self._batcher.close()
        self._session.close()

    def _replay(self, log: Any) -> None:
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            self.predict(log.predict_log.request, timeout_ms=0, into=predict_pb2.PredictResponse())
        else:
            _logger.warning("skipping a warm-up record of kind %s: only Predict is served here", kind)


def load(path: Path, *, options: ServableOptions) -> Servable:
    """Load the version in a directory and warm it up.

    Raises:
        ServingError: it can't be loaded, with the code and message TF Serving gives.
    """
    session = _load_session(path, options=options)
    try:
        servable = Servable(session, directory=path, options=options)
        if options.warmup:
            servable.warm_up(path)
    except ServingError:
        session.close()
        raise
    return servable


def _load_session(path: Path, *, options: ServableOptions) -> Session | LiteSession:
    if options.prefer_lite and (path / MODEL_FILE).exists():
        return LiteSession(path / MODEL_FILE, threads=options.session.intra_op_parallelism_threads)
    if not any((path / name).exists() for name in _MODEL_FILES):
        raise not_found(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}"
        )
    return Session(path, tags=options.tags, config=options.session)


def session_config(*, intra_op: int, inter_op: int) -> Any:
    """Build the ConfigProto of every session. 0 threads lets TensorFlow choose."""
    return config_pb2.ConfigProto(intra_op_parallelism_threads=intra_op, inter_op_parallelism_threads=inter_op)
