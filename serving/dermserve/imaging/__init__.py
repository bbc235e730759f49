"""Turn a photo's bytes into the pixels that a model sees, with the same code in gateway, training and evaluation.

Needs Pillow and numpy, and is faster with simplejpeg and cykooz-resizer; never TensorFlow.
"""

from dermserve.imaging.decode import Limits, decode
from dermserve.imaging.errors import PhotoError, TooManyBytesError, TooManyPixelsError
from dermserve.imaging.measure import FAULTS, Measures, find_faults, measure
from dermserve.imaging.views import IDENTITY, STANDARD_VIEWS, make_views

__all__ = [
    "FAULTS", "IDENTITY", "STANDARD_VIEWS", "Limits", "Measures", "PhotoError", "TooManyBytesError",
    "TooManyPixelsError", "decode", "find_faults", "make_views", "measure",
]  # fmt: skip
