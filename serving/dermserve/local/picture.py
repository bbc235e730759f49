"""Drawn pictures that look a little like dermoscopy photos, so that a demo needs no photo of anyone's skin."""

import pathlib

DRAWN = pathlib.Path(__file__).with_name("drawn")  # eight JPEGs of 600×450 pixels, made by tests/drawing.py
