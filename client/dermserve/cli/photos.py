"""From what was named on the command line to the photos to send."""

import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

import click

from dermserve.client import Photo

STDIN = "-"
SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})


def expand(named: Iterable[str]) -> list[str]:
    """Replace each folder by the photos in it, at any depth, in order of their names; leave everything else as it is.

    Raises:
        click.UsageError: a folder has none, or standard input is named twice.
    """
    files: list[str] = []
    for name in named:
        if name != STDIN and pathlib.Path(name).is_dir():
            files += _photos_in(name)
        else:
            files.append(name)
    if files.count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read once")
    return files


def load(files: Iterable[str]) -> Iterator[tuple[str, Photo]]:
    """Give each photo with its name; standard input is read when its turn comes, files by the client."""
    for name in files:
        yield name, sys.stdin.buffer.read() if name == STDIN else name


def _photos_in(folder: str) -> list[str]:
    found = [
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if pathlib.Path(name).suffix.lower() in SUFFIXES
    ]
    if not found:
        raise click.UsageError(f"no photos in {folder}: there is no {', '.join(sorted(SUFFIXES))} file at any depth")
    return sorted(found)
