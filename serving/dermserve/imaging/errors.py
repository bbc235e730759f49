"""Errors of photos that can't be used."""

import math
from typing import ClassVar


class PhotoError(ValueError):
    """A photo that can't be classified. Each message is for the caller: what is wrong and what to do."""

    reason: ClassVar[str] = "PHOTO"  # machine-readable and stable
    words: ClassVar[str] = "{}"  # the message, into which the error's arguments are put

    def __init__(self, *values: object) -> None:
        super().__init__(self.words.format(*values))


class EmptyPhotoError(PhotoError):
    """No bytes."""

    reason = "EMPTY_IMAGE"
    words = "the photo is empty: send the bytes of a JPEG, PNG or WebP file"


class TooManyBytesError(PhotoError):
    """More bytes, the first value, than the limit, the second."""

    reason = "IMAGE_TOO_LARGE"
    words = "the photo has {:,} bytes, over the limit of {:,}: send a smaller or more compressed one"


class TooManyPixelsError(PhotoError):
    """More pixels, by the header, than the limit, or than the memory limit allows for the format."""

    reason = "TOO_MANY_PIXELS"
    words = "the photo has {}×{} pixels, over the limit of {:g} megapixels for a {}"

    def __init__(self, limit: int, width: int, height: int, kind: str | None = None) -> None:
        what = f"{kind} file: scale it down first, or send a baseline JPEG" if kind else "photo: scale it down first"
        super().__init__(width, height, math.floor(limit / 1e5) / 10, what)


class TooComplexError(PhotoError):
    """A file, by its format, of more scans or parts than any camera writes, each of which costs time."""

    reason = "IMAGE_TOO_COMPLEX"
    words = "the {} file has more than {}: save it anew with another program"


class TooSmallError(PhotoError):
    """Width, height, and the limit for both, which a lesion needs."""

    reason = "IMAGE_TOO_SMALL"
    words = "the photo has {}×{} pixels; both sides need at least {}: send a closer or larger one"


class UnsupportedFormatError(PhotoError):
    """Not an image, or not JPEG, PNG, WebP or, with the extra `heic`, HEIC: the value says what it is."""

    reason = "UNSUPPORTED_FORMAT"
    words = "{}: send a JPEG, PNG or WebP file"


class UndecodablePhotoError(PhotoError):
    """A file, by its format, that is truncated or damaged."""

    reason = "UNDECODABLE_IMAGE"
    words = "the {} file is truncated or damaged: send it again, whole"
