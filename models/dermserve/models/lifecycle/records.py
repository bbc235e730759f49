"""The records beside a version, warm-up requests and golden predictions: TFRecord files of PredictionLogs.

Read without TensorFlow. A TFRecord is an 8-byte length, its checksum, the record, its checksum
(https://www.tensorflow.org/tutorials/load_data/tfrecord); the manifest vouches for the bytes, so the checksums are
passed over.
"""

import struct
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from dermserve.models.lifecycle.errors import StoreError
from dermserve.tfserving.v1 import management_pb2

WARMUP = "assets.extra/tf_serving_warmup_requests"
"""Path in a version's folder; TensorFlow Serving replays it when it loads the version."""
GOLDEN = "assets.extra/golden_predictions"
"""Path in a version's folder: requests, and what the version answered when it was exported."""
_LENGTH = struct.Struct("<Q")
_CHECKSUM = 4


def read_records(data: bytes, *, where: str) -> Iterator[management_pb2.PredictLog]:
    """Give the Predict calls in a file.

    Raises:
        StoreError: it is cut off, or holds something else.
    """
    offset = 0
    while offset < len(data):
        begin = offset + _LENGTH.size + _CHECKSUM
        if begin > len(data):
            raise StoreError(f"{where} is cut off")
        end = begin + _LENGTH.unpack_from(data, offset)[0]
        if end + _CHECKSUM > len(data):
            raise StoreError(f"{where} is cut off")
        try:
            log = management_pb2.PredictionLog.FromString(data[begin:end])
        except DecodeError as error:
            raise StoreError(f"{where} holds something that is no PredictionLog") from error
        if log.WhichOneof("log_type") == "predict_log":
            yield log.predict_log
        offset = end + _CHECKSUM
