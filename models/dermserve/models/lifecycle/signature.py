"""Signatures of versions with a key pair, by OpenSSF's `model-signing`; no network is needed.

The signature covers every file of a version but itself. It lies in `assets.extra`, which TensorFlow Serving leaves
alone.
"""

import pathlib
import re
from typing import Any

from dermserve.models.lifecycle.errors import SignatureError
from dermserve.models.lifecycle.manifest import MANIFEST, SIGNATURE, parse_manifest


def sign_version(folder: pathlib.Path, key: pathlib.Path) -> None:
    """Sign a finished version.

    Args:
        folder: holds the version, with its manifest.
        key: PEM file of an elliptic-curve private key, without a password.

    Raises:
        SignatureError: the key can't be used, or the extra `sign` is not installed.
    """
    load_key(key).set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)


def load_key(key: pathlib.Path) -> Any:
    """Load a private key, as model-signing's configuration of a signer.

    Raises:
        SignatureError: the key can't be used, or the extra `sign` is not installed.
    """
    signing = _module("signing")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise SignatureError(f"{key} is no private key of an elliptic curve, without a password: {error}") from error


def check_signature(folder: pathlib.Path, public_key: pathlib.Path, *, model: str, where: str) -> None:
    """Check that a version is what was signed with a key, and is of the model that it is stored under.

    Args:
        folder: holds the version.
        public_key: PEM file.
        model: the model's name.
        where: what messages call it.

    Raises:
        SignatureError: it is not, or has no signature, or the key can't be used.
    """
    verifying = _module("verifying")
    if not (folder / SIGNATURE).is_file():
        raise SignatureError(f"{where} is not signed: it has no {SIGNATURE}; publish it with --sign")
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, AttributeError) as error:
        raise SignatureError(f"{public_key} is no public key of an elliptic curve: {error}") from error
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # what it parses is not trusted, and each layer has errors of its own
        found = re.sub(r": Expected .*?\)'\)?", "", str(error)) or "the signature was made with another key, or changed"
        raise SignatureError(f"{where} is not what was signed with the key of {public_key}: {found[:500]}") from error
    named = parse_manifest((folder / MANIFEST).read_bytes(), where=f"{where}/{MANIFEST}").model
    if named != model:
        raise SignatureError(f"{where} was signed as a version of {named}")


def _hashing(folder: pathlib.Path) -> Any:
    config = _module("hashing").Config()
    return config.set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _module(name: str) -> Any:
    """Import a part of model-signing, which takes seconds."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise SignatureError(f"signatures need the extra `sign` ({error}): pip install 'dermserve[sign]'") from error
