"""What is measured of photos, to notice when others come."""

import numpy as np
import pytest

from dermserve.imaging import measure


def test_a_flat_picture_is_as_bright_as_it_is_and_not_sharp() -> None:
    found = measure(np.full((8, 6, 3), 77, np.uint8))
    assert (found.brightness, found.sharpness) == (77.0, 0.0)


def test_differences_do_not_wrap_around() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, ::2] = 255
    assert measure(pixels).sharpness == pytest.approx(127.5)
    assert measure(pixels.swapaxes(0, 1)).sharpness == pytest.approx(127.5)
