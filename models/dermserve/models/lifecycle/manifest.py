"""The files in a version's `assets.extra`: manifest, signature, warm-up records and golden predictions."""

import hashlib
import importlib
import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from dermserve.models.lifecycle.errors import StoreError
from dermserve.tfserving.v1 import management_pb2

MANIFEST = "assets.extra/dermserve.json"  # path in a version's folder, as those below
SIGNATURE = "assets.extra/dermserve.sig.json"  # of signed versions; covers the manifest, which does not contain it
WARMUP = "assets.extra/tf_serving_warmup_requests"  # TensorFlow Serving replays it when it loads the version
GOLDEN = "assets.extra/golden_predictions"  # requests, and what the version answered when it was exported
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a version when it was written."""

    model: str
    files: Mapping[str, str]  # SHA-256, hexadecimal, by path, of all but the manifest and the signature
    about: Mapping[str, str]  # for people: when it was exported, from what, by which dermserve

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the output of `sha256sum` for all files in order of their paths."""
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def write_manifest(folder: Path, *, model: str, about: Mapping[str, str]) -> Manifest:
    """Write the manifest of a finished version into its folder."""
    manifest = Manifest(model, _digests(folder), about)
    content = {"schema": _SCHEMA, "model": model, "digest": manifest.digest, "about": about, "files": manifest.files}
    path = folder / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return manifest


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Read a manifest. Raises StoreError: it is not valid, or does not match its own digest."""
    try:
        content = json.loads(data)
        manifest = Manifest(content["model"], content["files"], content["about"])
        agrees = content["schema"] == _SCHEMA and content["digest"] == manifest.digest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where} is not a manifest: {error}") from error
    if not agrees:
        raise StoreError(f"{where} does not match its own digest, or was written by a later dermserve")
    return manifest


def changes(folder: Path, manifest: Manifest) -> list[str]:
    """Return a phrase for each file that differs from the manifest."""
    found = _digests(folder)
    return [
        *(f"{path} is missing" for path in sorted(manifest.files.keys() - found.keys())),
        *(f"{path} was added" for path in sorted(found.keys() - manifest.files.keys())),
        *(f"{path} was changed" for path in sorted(found) if manifest.files.get(path, found[path]) != found[path]),
    ]


def problems(folder: Path, public_key: Path | None, *, model: str, where: str) -> list[str]:
    """Compare a version with its manifest, if it has one, and, with a key, its signature; return what is wrong."""
    found = []
    if (file := folder / MANIFEST).exists():
        found = changes(folder, parse_manifest(file.read_bytes(), where=f"{where}/{MANIFEST}"))
    wrong = "" if public_key is None else _signature_problem(folder, public_key, model=model, where=where)
    return [*found, wrong] if wrong else found


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (MANIFEST, SIGNATURE):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def load_key(key: Path) -> Any:
    """Load a private key, a PEM file of an elliptic curve without a password, as model-signing's signer."""
    signing = _module("signing")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # the library raises errors of many kinds
        raise StoreError(f"{key} is no private key of an elliptic curve, without a password: {error}") from error


def sign_version(folder: Path, key: Path) -> None:
    """Sign a finished version, which has its manifest, with a private key; raises as `load_key`."""
    load_key(key).set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)


def _signature_problem(folder: Path, public_key: Path, *, model: str, where: str) -> str:
    """Say why a version is not what was signed with this key, for this model; nothing if it is."""
    verifying = _module("verifying")
    if not (folder / SIGNATURE).is_file():
        return f"{where} is not signed: it has no {SIGNATURE}; publish it with --sign"
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # the library raises errors of many kinds
        return f"{public_key} is no public key of an elliptic curve: {error}"
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # the input is not trusted, and each layer raises its own errors
        found = re.sub(r": Expected .*?\)'\)?", "", str(error)) or "the signature was made with another key, or changed"
        return f"{where} is not what was signed with the key of {public_key}: {found[:500]}"
    named = parse_manifest((folder / MANIFEST).read_bytes(), where=f"{where}/{MANIFEST}").model
    return "" if named == model else f"{where} was signed as a version of {named}"


def _hashing(folder: Path) -> Any:
    return _module("hashing").Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _module(name: str) -> Any:
    """Import a part of model-signing, which takes seconds."""
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise StoreError(f"signatures need the extra `sign` ({error}): pip install '.[sign]' in a clone") from error


_HEAD = struct.Struct("<QI")  # of a TFRecord: its length, and that one's checksum; a checksum of four bytes comes last


def read_records(data: bytes, *, where: str) -> Iterator[management_pb2.PredictLog]:
    """Return the Predict calls in a TFRecord file of PredictionLogs; a StoreError for anything else."""
    file = io.BytesIO(data)
    while head := file.read(_HEAD.size):
        length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else 0
        record = file.read(min(length, len(data)))
        if len(file.read(4)) < 4:
            raise StoreError(f"{where} is cut off")
        try:
            log = management_pb2.PredictionLog.FromString(record)
        except DecodeError as error:
            raise StoreError(f"{where} holds something that is no PredictionLog") from error
        if log.WhichOneof("log_type") == "predict_log":
            yield log.predict_log
