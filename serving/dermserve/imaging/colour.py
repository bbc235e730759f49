"""Embedded colour profiles: pixels of any colour space to sRGB, which models are trained on.

LittleCMS does the work, by Pillow's ImageCms (https://pillow.readthedocs.io/en/stable/reference/ImageCms.html).
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""What ImageCms calls the colour space of a profile, by the mode of the pixels it is for."""


_PROBE = Image.frombytes("RGB", (8, 64), bytes(36 * (n >> at & 7) for n in range(512) for at in (0, 3, 6)))
"""Eight levels of each colour in every combination."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to sRGB, ignoring a profile that is broken or of another space."""
    transform = _transform(profile, image.mode) if profile else None
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=32)  # phones send the same few
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):  # not a profile, or one that LittleCMS can't use
        return None
    changes = ImageChops.difference(transform.apply(_PROBE.convert(mode)), _PROBE.convert(mode).convert("RGB"))
    return transform if np.asarray(changes).max() > 2 else None  # sRGB, by whatever name
