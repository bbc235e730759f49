"""BatchingParameters: the text format of TF Serving, whose own message its Python package does not carry."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

from dermserve.modelserver.config import read_text_proto
from dermserve.modelserver.errors import invalid_argument
from dermserve.modelserver.flags import cores

_FIELDS = (
    ("max_batch_size", ".google.protobuf.Int64Value"),
    ("batch_timeout_micros", ".google.protobuf.Int64Value"),
    ("max_enqueued_batches", ".google.protobuf.Int64Value"),
    ("num_batch_threads", ".google.protobuf.Int64Value"),
    ("thread_pool_name", ".google.protobuf.StringValue"),
    ("allowed_batch_sizes", "repeated"),
    ("pad_variable_length_inputs", "bool"),
    ("enable_large_batch_splitting", ".google.protobuf.BoolValue"),
    ("max_execution_batch_size", ".google.protobuf.Int64Value"),
)


@dataclass(frozen=True)
class BatchingParameters:
    """How batches are made. The defaults are TF Serving's."""

    max_batch_size: int = 1000
    """Rows of the largest request, and of the largest batch unless requests are split."""
    batch_timeout_s: float = 0.0
    """How long the first request of a batch waits for others."""
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=cores)
    allowed_batch_sizes: tuple[int, ...] = ()
    """Sizes a batch is filled up to; any size when there are none."""
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None
    """Rows of the largest batch when requests are split."""

    @property
    def execution_size(self) -> int:
        """Rows of the largest batch that runs."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    def check(self) -> None:
        """Check what TF Serving checks when a version is loaded.

        Raises:
            ServingError: INVALID_ARGUMENT, the allowed sizes do not end with the largest batch.
        """
        sizes, last = self.allowed_batch_sizes, self.execution_size
        if sizes and self.enable_large_batch_splitting and list(sizes) != sorted(set(sizes)):
            raise invalid_argument("allowed_batch_sizes entries must be monotonically increasing")
        if sizes and sizes[-1] != last:
            rule = (
                "be equal to max_execution_batch_size" if self.enable_large_batch_splitting else "match max_batch_size"
            )
            raise invalid_argument(
                f"Last entry in allowed_batch_sizes must {rule}; last entry was {sizes[-1]}; expected {last}"
            )


def read_parameters(path: Path | None) -> BatchingParameters:
    """Read them from a file, or take the defaults.

    Raises:
        ServingError: the file can't be read or parsed, or a number makes no sense.
    """
    message = _message()
    if path is not None:
        read_text_proto(path, into=message)
    given = {
        name: getattr(message, name).value for name, kind in _FIELDS if kind.startswith(".") and message.HasField(name)
    }
    given.pop("thread_pool_name", None)
    if given.get("max_batch_size", 0) < 0:
        given["max_batch_size"] = 2**63  # TF Serving takes it for an unsigned number.
    if "batch_timeout_micros" in given:
        given["batch_timeout_s"] = given.pop("batch_timeout_micros") / 1e6
    parameters = BatchingParameters(
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        **given,
    )
    if parameters.num_batch_threads < 1:
        raise invalid_argument(f"num_batch_threads must be positive; was {parameters.num_batch_threads}")
    if parameters.max_batch_size == 0:
        raise invalid_argument("max_batch_size must be positive; was 0")
    return parameters


def _message() -> Any:
    """Build an empty message of the fields of tensorflow.serving.BatchingParameters."""
    file = descriptor_pb2.FileDescriptorProto(name="batching_parameters.proto", package="dermserve.modelserver")
    file.syntax, types = "proto3", descriptor_pb2.FieldDescriptorProto
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    fields = file.message_type.add(name="BatchingParameters").field
    for number, (name, kind) in enumerate(_FIELDS, start=1):
        added = fields.add(name=name, number=number, label=types.LABEL_REPEATED if kind == "repeated" else 1)
        if kind.startswith("."):
            added.type, added.type_name = types.TYPE_MESSAGE, kind
        else:
            added.type = types.TYPE_BOOL if kind == "bool" else types.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("dermserve.modelserver.BatchingParameters"))()
