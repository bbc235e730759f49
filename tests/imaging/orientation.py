"""How the pixels of an upright photo lie in a file with each EXIF orientation, and pictures stored so."""

from PIL import Image

_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_TAG = 0x0112


def stored(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Give the pixels as they lie in the file, and the EXIF block that says how to turn them."""
    exif = Image.Exif()
    exif[_TAG] = orientation
    method = _STORED[orientation]
    return upright if method is None else upright.transpose(method), exif
