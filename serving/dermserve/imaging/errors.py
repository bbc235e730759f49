"""What can be wrong with a photo.

PhotoError
├── EmptyPhotoError         no bytes
├── TooManyBytesError       file over the byte limit
├── TooManyPixelsError      header says more pixels than the limit
├── TooSmallError           fewer pixels than a lesion needs
├── UnsupportedFormatError  not an image, or not JPEG, PNG or WebP
└── UndecodablePhotoError   truncated or damaged
"""

from typing import ClassVar


class PhotoError(ValueError):
    """A photo that can't be classified. Each message says what is wrong and what to do, in words for the caller."""

    reason: ClassVar[str] = "PHOTO"
    """Machine-readable and stable."""


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
    """Header says more pixels than the limit."""

    reason = "TOO_MANY_PIXELS"

    def __init__(self, limit: int, width: int | None = None, height: int | None = None) -> None:
        size = f"{width}×{height} pixels" if width and height else "too many pixels"
        super().__init__(f"the photo has {size}, over the limit of {limit / 1e6:g} megapixels: scale it down first")


class TooSmallError(PhotoError):
    """Fewer pixels than a lesion needs."""

    reason = "IMAGE_TOO_SMALL"

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the photo has {width}×{height} pixels; both sides need at least {limit}: send a closer or larger one"
        )


class UnsupportedFormatError(PhotoError):
    """Not an image, or not in a supported format."""

    reason = "UNSUPPORTED_FORMAT"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: send a JPEG, PNG or WebP file")


class UndecodablePhotoError(PhotoError):
    """Truncated or damaged."""

    reason = "UNDECODABLE_IMAGE"

    def __init__(self, image_format: str) -> None:
        super().__init__(f"the {image_format} file is truncated or damaged: send it again, whole")
