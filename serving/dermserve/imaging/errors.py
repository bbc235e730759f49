"""Errors of photos that can't be used."""

import math
from typing import ClassVar


class PhotoError(ValueError):
    """A photo that can't be classified. Each message is for the caller: what is wrong and what to do."""

    reason: ClassVar[str] = "PHOTO"  # Machine-readable and stable


class EmptyPhotoError(PhotoError):
    """No bytes."""

    reason = "EMPTY_IMAGE"

    def __init__(self) -> None:
        super().__init__("the photo is empty: send the bytes of a JPEG, PNG or WebP file")


class TooManyBytesError(PhotoError):
    """File over the byte limit."""

    reason = "IMAGE_TOO_LARGE"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the photo has {size:,} bytes, over the limit of {limit:,}: send a smaller or more compressed one"
        )


class TooManyPixelsError(PhotoError):
    """More pixels, by the header, than the limit, or than the memory limit allows for the format."""

    reason = "TOO_MANY_PIXELS"

    def __init__(self, limit: int, width: int, height: int, kind: str | None = None) -> None:
        what = f"{kind} file: scale it down first, or send a baseline JPEG" if kind else "photo: scale it down first"
        most = math.floor(limit / 1e5) / 10
        super().__init__(f"the photo has {width}×{height} pixels, over the limit of {most:g} megapixels for a {what}")


class TooComplexError(PhotoError):
    """More scans or parts than any camera writes, each of which costs time."""

    reason = "IMAGE_TOO_COMPLEX"

    def __init__(self, image_format: str, most: str) -> None:
        super().__init__(f"the {image_format} file has more than {most}: save it anew with another program")


class TooSmallError(PhotoError):
    """Fewer pixels than a lesion needs."""

    reason = "IMAGE_TOO_SMALL"

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the photo has {width}×{height} pixels; both sides need at least {limit}: send a closer or larger one"
        )


class UnsupportedFormatError(PhotoError):
    """Not an image, or not JPEG, PNG, WebP or, with the extra `heic`, HEIC."""

    reason = "UNSUPPORTED_FORMAT"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: send a JPEG, PNG or WebP file")


class UndecodablePhotoError(PhotoError):
    """Truncated or damaged."""

    reason = "UNDECODABLE_IMAGE"

    def __init__(self, image_format: str) -> None:
        super().__init__(f"the {image_format} file is truncated or damaged: send it again, whole")
