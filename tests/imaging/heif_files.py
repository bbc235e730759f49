"""HEIC files, written box by box around coded pictures that tests/imaging/cases holds: no encoder is needed."""

import pathlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CASES = pathlib.Path(__file__).parent / "cases"


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *content: bytes, version: int = 0) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *content)


@dataclass(frozen=True)
class Coded:
    """One coded picture: its configuration (hvcC), its NAL units, and its size."""

    config: bytes
    stream: bytes
    width: int
    height: int


def coded(name: str) -> Coded:
    """Take the picture out of a file of one."""
    data = (CASES / name).read_bytes()
    at = data.index(b"hvcC")
    (size,) = struct.unpack_from(">I", data, at - 4)
    width, height = struct.unpack_from(">II", data, data.index(b"ispe") + 8)
    return Coded(data[at + 4 : at - 4 + size], data[data.index(b"mdat") + 4 :], width, height)


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", struct.pack(">II", width, height))


def heic(
    items: Sequence[tuple[bytes, bytes, Sequence[bytes]]],
    *,
    references: Iterable[tuple[bytes, int, Sequence[int]]] = (),
    extra: bytes = b"",
) -> bytes:
    """Write a file of items, each a kind, its bytes and its properties; the first, number 1, is the primary one."""
    known = list(dict.fromkeys(piece for _, _, pieces in items for piece in pieces))
    infes = [full(b"infe", struct.pack(">HH", 1 + n, 0), kind, b"\0", version=2) for n, (kind, *_) in enumerate(items)]
    links = [
        struct.pack(">HB", 1 + n, len(pieces)) + bytes(1 + known.index(piece) for piece in pieces)
        for n, (*_, pieces) in enumerate(items)
    ]
    irefs = [
        box(kind, struct.pack(f">HH{len(to)}H", item, len(to), *to)) for kind, item, to in references
    ]  # fmt: skip

    def written(start: int) -> bytes:
        places = b""
        for n, (_, data, _) in enumerate(items):
            places += struct.pack(">HHHII", 1 + n, 0, 1, start, len(data))
            start += len(data)
        meta = full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iinf", struct.pack(">H", len(items)), *infes),
            full(b"iref", *irefs) if irefs else b"",
            box(b"iprp", box(b"ipco", *known), full(b"ipma", struct.pack(">I", len(items)), *links)),
            full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places),
        )
        return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta + extra

    body = b"".join(data for _, data, _ in items)
    return written(len(written(0)) + 8) + box(b"mdat", body)


def single(picture: Coded, *properties: bytes, stream: bytes | None = None, size: bytes | None = None) -> bytes:
    """Write a file of one coded picture."""
    pieces = (size or ispe(picture.width, picture.height), box(b"hvcC", picture.config), *properties)
    return heic([(b"hvc1", picture.stream if stream is None else stream, pieces)])


def grid(tile: Coded, width: int, height: int, *, columns: int = 0, rows: int = 0, copies: int = 0) -> bytes:
    """Write a file of tiles, each with its own bytes, as phones do."""
    columns, rows = columns or -(-width // tile.width), rows or -(-height // tile.height)
    count = copies or columns * rows
    layout = bytes([0, 1, rows - 1, columns - 1]) + struct.pack(">II", width, height)
    pieces = (ispe(tile.width, tile.height), box(b"hvcC", tile.config))
    items = [(b"grid", layout, (ispe(width, height),)), *[(b"hvc1", tile.stream, pieces)] * count]
    return heic(items, references=[(b"dimg", 1, range(2, 2 + count))])
