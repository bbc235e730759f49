"""Files within a TensorFlow Lite model: its labels, its version's card, and the digest of its source.

They are in a zip archive appended to the model, where TensorFlow Lite's own metadata tools write and read associated
files (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata). The archive is not compressed.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping

import keras

from dermserve.models.architectures import weights_digest
from dermserve.models.graph import FeatureDistance

LABELS = "labels.txt"  # class codes in the order of the probabilities, one a line
CARD = "card.json"  # the card that `describe` returns; in a version's model.tflite, not in a run's
SOURCE = "source.txt"  # the `source_digest` of the network that it was converted from


def with_files(model: bytes, files: Mapping[str, str]) -> bytes:
    """Append files, text by name, to a model."""
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


def read_file(model: bytes, name: str) -> str | None:
    """Read a file of a model; None if it has no such file."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return archive.read(name).decode()
    except (zipfile.BadZipFile, KeyError):
        return None


def source_digest(network: keras.Model, *, temperature: float, distance: FeatureDistance | None) -> str:
    """Return the SHA-256, hexadecimal, of everything that determines a converted model's answers."""
    digest = hashlib.sha256(f"{weights_digest(network)} {temperature!r}".encode())
    if distance is not None:
        for array in (distance.centers, distance.projection, distance.scope):
            digest.update(b"" if array is None else array.astype("<f4").tobytes())
        digest.update(f"{distance.unit} {distance.limit!r}".encode())
    return digest.hexdigest()
