"""A version's manifest: what it consists of and its digest, so that a change or a half copy is noticed.

It lies in `assets.extra`, which TensorFlow Serving leaves alone but for its warm-up file. In object storage it is
uploaded last: a version without one is not there yet.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dermserve.models.lifecycle.errors import StoreError

MANIFEST = "assets.extra/dermserve.json"
"""Path in a version's folder."""
SIGNATURE = "assets.extra/dermserve.sig.json"
"""Path in a version's folder, if it is signed; it covers the manifest, and is not in it."""
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version was when it was written."""

    model: str
    files: Mapping[str, str]
    """SHA-256, hexadecimal, by path in the version's folder; all but the manifest and the signature."""
    about: Mapping[str, str] = field(default_factory=dict)
    """For people: when it was exported, from what, by which dermserve."""

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over all files: what `sha256sum` prints for them in order of their paths."""
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def write_manifest(folder: pathlib.Path, *, model: str, about: Mapping[str, str]) -> Manifest:
    """Write the manifest of a finished version.

    Args:
        folder: holds the version.
        model: whose version it is.
        about: for people.
    """
    manifest = Manifest(model, dict(_digests(folder)), about)
    content = {
        "schema": _SCHEMA,
        "model": model,
        "digest": manifest.digest,
        "about": dict(about),
        "files": dict(sorted(manifest.files.items())),
    }
    path = folder / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return manifest


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Read a manifest.

    Raises:
        StoreError: it is none, or does not agree with its own digest.
    """
    try:
        content = json.loads(data)
        manifest = Manifest(content["model"], content["files"], content["about"])
        agrees = content["schema"] == _SCHEMA and content["digest"] == manifest.digest
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where} is not a manifest: {error}") from error
    if not agrees:
        raise StoreError(f"{where} does not agree with its own digest, or is of a later dermserve")
    return manifest


def changes(folder: pathlib.Path, manifest: Manifest) -> list[str]:
    """Name what differs between a folder and its manifest, a phrase a file; nothing when all is well."""
    found = dict(_digests(folder))
    return [
        *(f"{path} is missing" for path in sorted(manifest.files.keys() - found.keys())),
        *(f"{path} was added" for path in sorted(found.keys() - manifest.files.keys())),
        *(f"{path} was changed" for path in sorted(found) if manifest.files.get(path, found[path]) != found[path]),
    ]


def _digests(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (MANIFEST, SIGNATURE):
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()
