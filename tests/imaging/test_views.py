import numpy as np
import pytest

from dermserve.imaging import IDENTITY, STANDARD_VIEWS, make_views

_PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_there_are_ten_standard_views_and_the_first_is_the_photo() -> None:
    views = make_views(_PIXELS, STANDARD_VIEWS)
    assert views.shape == (10, 16, 16, 3)
    assert STANDARD_VIEWS[0] == IDENTITY
    assert (views[0] == _PIXELS).all()


def test_the_dihedral_views_are_the_eight_symmetries_of_the_square() -> None:
    views = {view.tobytes() for view in make_views(_PIXELS, STANDARD_VIEWS[:8])}
    assert len(views) == 8
    turned = {view.tobytes() for view in make_views(np.ascontiguousarray(np.rot90(_PIXELS)), STANDARD_VIEWS[:8])}
    mirrored = {view.tobytes() for view in make_views(np.ascontiguousarray(_PIXELS[::-1]), STANDARD_VIEWS[:8])}
    assert views == turned == mirrored


def test_brightness_views_are_a_tenth_darker_and_brighter_and_saturate() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    darker, brighter = make_views(levels, ["darker", "brighter"]).astype(float)
    assert np.abs(darker - levels * 0.9).max() <= 0.5
    assert np.abs(brighter - np.minimum(levels * 1.1, 255)).max() <= 0.5


def test_views_come_in_the_order_asked_for() -> None:
    first, second = make_views(_PIXELS, ["rot180", "identity"])
    assert (second == _PIXELS).all()
    assert (first == _PIXELS[::-1, ::-1]).all()


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        make_views(_PIXELS[:8], STANDARD_VIEWS)
