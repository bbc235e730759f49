"""Check a caller's arguments, and make the wire's requests from them."""

import errno
import os
import pathlib
import re
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

from dermserve.client._errors import UnreadablePhoto, too_large
from dermserve.v1 import classifier_pb2

Photo: TypeAlias = bytes | str | os.PathLike[str]
"""A photo: the bytes of a JPEG, PNG or WebP file, or the path of one."""
Item: TypeAlias = Photo | tuple[str, Photo]  #: A photo, or the caller's id for it and the photo.
Prepare: TypeAlias = Callable[[bytes], classifier_pb2.ClassifyRequest]

MOST_BYTES = 2**26
"""Most bytes of a photo, beyond what a gateway takes: several at once must fit into memory."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REASONS = {errno.ENOENT: "FILE_NOT_FOUND", errno.EISDIR: "IS_A_DIRECTORY"}


class TtaMode(StrEnum):
    """Test-time augmentation: how many views of a photo the model sees."""

    NONE = "none"  #: The photo as it is.
    FULL = "full"  #: All ten standard views, averaged.
    ADAPTIVE = "adaptive"
    """The photo as it is; more views, up to ten, where they may change the answer, by the model's card."""


def preparer(*, model: str, version: int | None, label: str | None, tta: TtaMode | str) -> Prepare:
    """Check what all photos of a call share, a ValueError if it is not valid; return what makes a request of each."""
    if not model:
        raise ValueError('name a model, for example model="resnet50"')
    if version is not None and label is not None:
        raise ValueError("give a version or a label, not both")
    if version is not None and not 1 <= version < 2**63:
        raise ValueError(f"versions count from 1 to 2^63 - 1, not {version}")
    if tta not in [*TtaMode]:
        raise ValueError(f"tta is one of {', '.join(TtaMode)}, not {tta!r}")
    selector = classifier_pb2.ModelSelector(name=model, version=version, label=label)
    mode = f"TTA_MODE_{TtaMode(tta).name}"
    return lambda image: classifier_pb2.ClassifyRequest(model=selector, image=image, tta=mode)


def read_photo(photo: Photo) -> bytes:
    """Return a photo's bytes. Raises UnreadablePhoto: its file can't be read; TooLarge: it can't be a photo."""
    name, data = "it", photo
    if not isinstance(data, bytes):
        path = pathlib.Path(data)
        try:
            with path.open("rb") as file:
                name, data = str(path), file.read(MOST_BYTES + 1)  # it may be a device without an end
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            number, words = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
            reason = _REASONS.get(number or 0, "UNREADABLE_FILE")
            raise UnreadablePhoto(f"can't read {path}: {words or error}", reason=reason) from error
    if len(data) > MOST_BYTES:
        raise too_large(f"{name} has more than {MOST_BYTES >> 20} MiB")
    return data


def make_request_id(given: str | None) -> str:
    """Return the caller's request id, or a new one. Raises ValueError: not 1 to 64 of A-Z a-z 0-9 . _ and -."""
    if given is None:
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(given):
        raise ValueError(f"a request id is 1 to 64 characters of A-Z a-z 0-9 . _ - and not {given!r}")
    return given
