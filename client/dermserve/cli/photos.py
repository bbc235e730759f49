"""Find the photos to send from the command line's arguments, and the files that are not sent."""

import contextlib
import os
import pathlib
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import click

from dermserve.client import InvalidPhoto, UnreadablePhoto
from dermserve.client._request import MOST_BYTES

STDIN = "-"
SUFFIXES = frozenset(
    {
        ".avif", ".bmp", ".dcm", ".dicom", ".dng", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jfif",
        ".jif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
"""Suffixes of pictures. The gateway decides which of them it reads."""
_NOTES = frozenset(
    {".aae", ".csv", ".htm", ".html", ".json", ".log", ".md", ".tsv", ".txt", ".xml", ".xmp", ".yaml", ".yml"}
)
_JUNK = frozenset(
    {
        "$recycle.bin", ".appledouble", ".ds_store", ".fseventsd", ".localized", ".nomedia", ".picasa.ini",
        ".spotlight-v100", ".trashes", "desktop.ini", "ehthumbs.db", "icon\r", "system volume information", "thumbs.db",
    }
)  # fmt: skip
"""Names of files, and of folders with all that is in them."""


@dataclass(slots=True)
class Found:
    """The photos to classify, and other files."""

    photos: list[str] = field(default_factory=list)
    refused: list[tuple[str, InvalidPhoto]] = field(default_factory=list)  # not sent, and why not
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Files beside photos that are not photos, and what they are. They do not count as failed."""


def expand(named: Iterable[str], *, written: Iterable[str | os.PathLike[str]] = ()) -> Found:
    """Replace each folder by the files in it, at any depth, sorted; leave everything else, and name nothing twice.

    Links to folders are followed, each folder once; files that the command itself has `written` are skipped. Raises
    click.UsageError: a folder has no photos.
    """
    found = Found()
    own = {os.path.realpath(path) for path in written}
    for name in named:
        if name != STDIN and pathlib.Path(name).is_dir():
            _look_into(name, found, own)
        else:
            found.photos.append(name)
    return Found([*dict.fromkeys(found.photos)], [*dict(found.refused).items()], [*dict(found.skipped).items()])


def read_stdin() -> bytes:
    """Read standard input without Python's buffer: a thread that waits here would hold its lock at exit."""
    with open(0, "rb", closefd=False) as stdin:
        return stdin.read(MOST_BYTES + 1)


def _look_into(folder: str, found: Found, own: set[str]) -> None:
    before = len(found.photos) + len(found.refused)
    for path in sorted(_files_in(folder, found)):
        if what := _companion(path, path.removeprefix(folder).lower().split(os.sep), own):
            found.skipped.append((path, what))
        elif why := _refusal(path):
            found.refused.append((path, InvalidPhoto(why, reason="NOT_A_PHOTO")))
        else:
            found.photos.append(path)
    if len(found.photos) + len(found.refused) == before:
        raise click.UsageError(f"no photos in {click.format_filename(folder)}, at any depth")


def _files_in(folder: str, found: Found) -> Iterator[str]:
    """Name the files below a folder, each folder once: by its own name rather than by a link's."""
    seen, folders = set(), deque([folder])
    while folders:
        folder = folders.pop()
        try:
            about, names = os.stat(folder), os.listdir(folder)
        except OSError as error:
            reason = UnreadablePhoto(f"can't read the folder: {error.strerror or error}", reason="UNREADABLE_FILE")
            found.refused.append((folder, reason))
            continue
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        for path in (os.path.join(folder, name) for name in names):
            if not os.path.isdir(path):
                yield path
            elif os.path.islink(path):
                folders.appendleft(path)
            else:
                folders.append(path)


def _companion(path: str, parts: list[str], own: set[str]) -> str | None:
    """Describe a file beside photos that is not a photo, by the `parts` of its path below the folder; else None."""
    name = parts[-1]
    if name.startswith("._") or name.endswith(":zone.identifier"):
        return "what macOS or Windows keeps about another file, not a photo"
    if not _JUNK.isdisjoint(parts):
        return "what an operating system keeps about a folder, not a photo"
    if pathlib.Path(name).suffix in _NOTES:
        return "notes or metadata, not a photo"
    return "written by this command" if own and os.path.realpath(path) in own else None


def _refusal(path: str) -> str | None:
    """Say why a file of a folder is not sent; None if it is. A file that can't be read is: the client reports that."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):  # would be read without an end, or wait for a writer
            return "a pipe, socket or device, not a file"
        if pathlib.Path(path).suffix.lower() not in SUFFIXES:
            return "not a photo, by its name: name the file itself to send it"
    return None


def shown(text: str, *, keep: str = "") -> str:
    """Escape control characters and bytes that are not text, which file names and answers may contain; not `keep`."""
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)
