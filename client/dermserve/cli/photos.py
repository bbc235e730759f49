"""From what was named on the command line to the photos to send, and to every file that is none."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import click

from dermserve.client import InvalidPhoto, Photo, UnreadablePhoto

STDIN = "-"
SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".dcm",
        ".dicom",
        ".dng",
        ".gif",
        ".heic",
        ".heics",
        ".heif",
        ".heifs",
        ".hif",
        ".jfif",
        ".jif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".jxl",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Of pictures. The gateway decides which of them it reads, and names those that it doesn't."""
_NOTES = frozenset(
    {".aae", ".csv", ".htm", ".html", ".json", ".log", ".md", ".tsv", ".txt", ".xml", ".xmp", ".yaml", ".yml"}
)
_JUNK = frozenset({".ds_store", "desktop.ini", "thumbs.db", ".nomedia", ".localized"})
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_HEAD = 132


@dataclass(slots=True)
class Found:
    """What there is to classify."""

    photos: list[str] = field(default_factory=list)
    """To send, in order."""
    refused: list[tuple[str, InvalidPhoto]] = field(default_factory=list)
    """Files and folders that are not sent, and why not."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """What is kept about photos and folders, and what it is: no failure."""

    def notes(self, *, all_files: bool) -> Iterator[str]:
        """Say what is skipped: all of it, or only what its name makes a photo."""
        for name, what in self.skipped:
            if all_files or pathlib.Path(name).suffix.lower() in SUFFIXES:
                yield f"{click.format_filename(name)}: skipped: {what}"


def expand(named: Iterable[str]) -> Found:
    """Replace each folder by the files in it, at any depth, in order of their names; leave everything else as it is.

    Links to folders are followed, to each folder once.

    Raises:
        click.UsageError: a folder has no files, or standard input is named twice.
    """
    found = Found()
    for name in named:
        if name != STDIN and pathlib.Path(name).is_dir():
            _look_into(name, found)
        else:
            found.photos.append(name)
    if found.photos.count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read once")
    return found


def load(files: Iterable[str]) -> Iterator[tuple[str, Photo]]:
    """Give each photo with its name; standard input is read when its turn comes, files by the client."""
    for name in files:
        yield name, _read_stdin() if name == STDIN else name


def _read_stdin() -> bytes:
    """Read all of it, past Python's own buffer, whose lock a thread that waits here would hold at exit."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        return stdin.readall() or b""


def _look_into(folder: str, found: Found) -> None:
    files = sorted(_files_in(folder, found, seen=set()))
    before = len(found.photos) + len(found.refused)
    for path in files:
        if what := _companion(os.path.basename(path)):
            found.skipped.append((path, what))
        elif pathlib.Path(path).suffix.lower() in SUFFIXES or _looks_like_a_picture(path):
            found.photos.append(path)
        else:
            found.refused.append((path, InvalidPhoto("not a photo, by name and content", reason="NOT_A_PHOTO")))
    if len(found.photos) + len(found.refused) == before:
        raise click.UsageError(f"no photos in {click.format_filename(folder)}, at any depth")


def _files_in(folder: str, found: Found, *, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Name the files below a folder, entering each folder once, whichever links lead to it."""
    try:
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:
            return
        seen.add((about.st_dev, about.st_ino))
        with os.scandir(folder) as entries:
            for entry in list(entries):
                if entry.is_dir():
                    yield from _files_in(entry.path, found, seen=seen)
                else:
                    yield entry.path
    except OSError as error:
        reason = UnreadablePhoto(f"can't read the folder: {error.strerror or error}", reason="UNREADABLE_FILE")
        found.refused.append((folder, reason))


def _companion(name: str) -> str | None:
    """Say what a file is that belongs to photos or their folder and is none; None for all else."""
    if name.startswith("._"):
        return "what macOS keeps about another file, not a photo"
    if name.lower() in _JUNK:
        return "what an operating system keeps about a folder, not a photo"
    return "notes or metadata, not a photo" if pathlib.Path(name).suffix.lower() in _NOTES else None


def _looks_like_a_picture(path: str) -> bool:
    """Check a file's first bytes. A file that can't be read passes: the client reports why."""
    try:
        if not os.path.isfile(path):
            return not os.path.exists(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return True
    return head.startswith(_MAGIC) or head[4:8] == b"ftyp" or head[128:132] == b"DICM"
