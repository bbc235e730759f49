"""Warm-up records: requests kept beside a version and replayed before it is served, so the first caller need not wait.

The file is a TFRecord of PredictionLog: an 8-byte length, its checksum, the record, its checksum
(https://www.tensorflow.org/tutorials/load_data/tfrecord), where a checksum is a masked CRC-32C.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from google.protobuf.message import DecodeError

from dermserve.modelserver._protos import prediction_log_pb2
from dermserve.modelserver.errors import ServingError, invalid_argument

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000
_HINT = ". Please verify your warmup data is in TFRecord format."


def read_requests(directory: Path) -> Iterator[Any]:
    """Read the PredictionLogs kept beside a version; none when there is no file.

    Raises:
        ServingError: DATA_LOSS, the file is no TFRecord; INVALID_ARGUMENT, a bad record or one too many.
    """
    path = directory / WARMUP_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, record in enumerate(_records(file), start=1):
            yield _parse(record, path)
            if number > MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")


def _parse(record: bytes, path: Path) -> Any:
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        text = record.decode("utf-8", "replace")
        raise invalid_argument(f"Failed to parse warmup record: {text} from {path}") from error


def _records(file: BinaryIO) -> Iterator[bytes]:
    offset = 0
    while length := _checked(file, 8, offset=offset):
        record = _checked(file, struct.unpack("<Q", length)[0], offset=offset, required=True)
        offset = file.tell()
        yield record


def _checked(file: BinaryIO, size: int, *, offset: int, required: bool = False) -> bytes:
    data = file.read(size + 4)
    if not data and not required:
        return b""
    if len(data) < size + 4:
        raise _data_loss("truncated", offset)
    if struct.unpack("<I", data[size:])[0] != _masked_crc(data[:size]):
        raise _data_loss("corrupted", offset)
    return data[:size]


def _data_loss(what: str, offset: int) -> ServingError:
    doubt = " (Is this even a TFRecord file?)" if offset == 0 else ""
    return ServingError(grpc.StatusCode.DATA_LOSS, f"{what} record at {offset}{doubt}{_HINT}")


def _masked_crc(data: bytes) -> int:
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        crc = entry
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
