"""Our TensorFlow-free protos and the real tensorflow-serving-api against each other, field by field, both ways."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2 as real_tensor
from tensorflow.core.framework import tensor_shape_pb2 as real_shape
from tensorflow.core.framework import types_pb2 as real_types
from tensorflow.core.protobuf import config_pb2 as real_session
from tensorflow.core.protobuf import meta_graph_pb2 as real_graph
from tensorflow_serving.apis import get_model_metadata_pb2 as real_metadata
from tensorflow_serving.apis import get_model_status_pb2 as real_status
from tensorflow_serving.apis import model_management_pb2 as real_management
from tensorflow_serving.apis import model_pb2 as real_model
from tensorflow_serving.apis import predict_pb2 as real_predict
from tensorflow_serving.apis import prediction_log_pb2 as real_log
from tensorflow_serving.apis import status_pb2 as real_util_status
from tensorflow_serving.config import model_server_config_pb2 as real_config

from dermserve.contract import Output, Signature
from dermserve.gateway.tfserving import Target, encode_predict, read_output
from dermserve.tfserving.v1 import management_pb2 as our_management
from dermserve.tfserving.v1 import serving_pb2 as ours
from dermserve.tfserving.v1 import session_pb2 as our_session
from dermserve.tfserving.v1 import tensor_pb2 as our_tensor

PAIRS: list[tuple[type[Message], type[Message]]] = [
    (ours.ModelSpec, real_model.ModelSpec),
    (ours.PredictRequest, real_predict.PredictRequest),
    (ours.PredictResponse, real_predict.PredictResponse),
    (ours.GetModelStatusRequest, real_status.GetModelStatusRequest),
    (ours.GetModelStatusResponse, real_status.GetModelStatusResponse),
    (ours.ModelVersionStatus, real_status.ModelVersionStatus),
    (ours.StatusProto, real_util_status.StatusProto),
    (ours.GetModelMetadataRequest, real_metadata.GetModelMetadataRequest),
    (ours.GetModelMetadataResponse, real_metadata.GetModelMetadataResponse),
    (our_management.ModelServerConfig, real_config.ModelServerConfig),
    (our_management.ModelConfig, real_config.ModelConfig),
    (our_management.ReloadConfigRequest, real_management.ReloadConfigRequest),
    (our_management.ReloadConfigResponse, real_management.ReloadConfigResponse),
    (our_management.PredictionLog, real_log.PredictionLog),
    (our_session.ConfigProto, real_session.ConfigProto),
    (our_session.RunOptions, real_session.RunOptions),
    (our_session.TensorInfo, real_graph.TensorInfo),
    (our_session.SignatureDef, real_graph.SignatureDef),
    (our_session.MetaGraphDef, real_graph.MetaGraphDef),
    (our_session.SignatureDefMap, real_metadata.SignatureDefMap),
    (our_tensor.TensorProto, real_tensor.TensorProto),
    (our_tensor.TensorShapeProto, real_shape.TensorShapeProto),
    (our_tensor.TensorShapeProto.Dim, real_shape.TensorShapeProto.Dim),
]
both_schemas = pytest.mark.parametrize(("our", "real"), PAIRS, ids=[our.DESCRIPTOR.name for our, _ in PAIRS])

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else st.text(max_size=20)
    return _SCALARS[field.cpp_type]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _fill(draw: st.DrawFn, message: Message) -> Message:
    """Set every field of a message, or leave it, at random; each branch of a oneof gets its turn."""
    chosen = {oneof.name: draw(st.sampled_from(list(oneof.fields))).name for oneof in message.DESCRIPTOR.oneofs}
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if (oneof is None or chosen[oneof.name] == field.name) and draw(st.booleans()):
            _set(draw, message, field)
    return message


@st.composite
def _filled(draw: st.DrawFn, schema: type[Message]) -> Message:
    """Draw a message of a schema. (A message as the strategy's argument is printed whole when a draw is rejected.)"""
    return _fill(draw, schema())


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        key_type, entry = (field.message_type.fields_by_name[part] for part in ("key", "value"))
        keys = st.text(max_size=5) if key_type.cpp_type == FieldDescriptor.CPPTYPE_STRING else _scalar(key_type)
        for key in draw(st.sets(keys, max_size=3)):
            if entry.message_type is None:
                target[key] = draw(_scalar(entry))
            else:
                _fill(draw, target[key])
    elif field.is_repeated and field.message_type is not None:
        for _ in range(draw(st.integers(0, 3))):
            _fill(draw, target.add())
    elif field.is_repeated:
        target.extend(draw(st.lists(_scalar(field), max_size=4)))
    elif field.message_type is not None:
        target.SetInParent()
        _fill(draw, target)
    else:
        setattr(message, field.name, draw(_scalar(field)))


def _values(message: Message) -> dict[str, Any]:
    """Read a message as plain values by field name, so that messages of two schemas can be compared."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if _is_map(field):
        return {key: _values(entry) if isinstance(entry, Message) else entry for key, entry in value.items()}
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    return [_values(entry) for entry in value] if field.is_repeated else _values(value)


def at_random(test):
    """Give a test messages at random."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=60, deadline=None, suppress_health_check=checks)(given(data=st.data())(test))


@both_schemas
@at_random
def test_what_one_side_writes_the_other_reads(our, real, data):
    written = data.draw(_filled(our))
    read = real.FromString(written.SerializeToString())
    assert _values(read) == _values(written)
    assert our.FromString(read.SerializeToString()) == written


@both_schemas
@at_random
def test_fields_we_do_not_know_pass_through_unharmed(our, real, data):
    written = data.draw(_filled(real))
    assert real.FromString(our.FromString(written.SerializeToString()).SerializeToString()) == written


@both_schemas
def test_every_field_has_the_number_type_and_oneof_of_the_real_one(our, real):
    for mine in our.DESCRIPTOR.fields:
        theirs = real.DESCRIPTOR.fields_by_name[mine.name]
        # int32 and enum are the same on the wire: we need no copy of TensorFlow's error codes.
        types = {mine.type, theirs.type}
        assert len(types) == 1 or types == {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM}
        assert (mine.number, mine.is_repeated) == (theirs.number, theirs.is_repeated)
        assert (mine.containing_oneof is None) == (theirs.containing_oneof is None)


@at_random
def test_a_models_config_we_write_is_read_by_tensorflow_serving_and_back(data):
    written = data.draw(_filled(our_management.ModelServerConfig))
    written.ClearField("custom_model_config")  # text format expands an Any, whose type must be known
    for model in written.model_config_list.config:
        model.logging_config.ClearField("custom_logging_config")
    read = text_format.Parse(text_format.MessageToString(written), real_config.ModelServerConfig())
    assert _values(read) == _values(written)
    assert text_format.Parse(text_format.MessageToString(read), our_management.ModelServerConfig()) == written


def test_enum_numbers_are_the_real_ones():
    for value in our_tensor.DataType.DESCRIPTOR.values:
        name = value.name.removeprefix("DATA_TYPE_").replace("UNSPECIFIED", "INVALID")
        assert real_types.DataType.Value(f"DT_{name}") == value.number
    for value in ours.ModelVersionStatus.State.DESCRIPTOR.values:
        name = value.name.removeprefix("STATE_").replace("UNSPECIFIED", "UNKNOWN")
        assert real_status.ModelVersionStatus.State.Value(name) == value.number


@pytest.mark.parametrize("shape", [(1, 224, 224, 3), (10, 224, 224, 3), (0, 4, 4, 3), (3, 1000, 1000, 3)])
def test_tensorflow_reads_the_pixels_the_gateway_writes(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    request = encode_predict(Target("m"), Signature.SERVING_DEFAULT, pixels)
    content = ours.PredictRequest.FromString(request).inputs["images"].SerializeToString()
    proto = real_tensor.TensorProto.FromString(content)
    assert (tf.make_ndarray(proto) == pixels).all()


def read_floats(proto, rank):
    response = ours.PredictResponse()
    response.outputs["probabilities"].MergeFromString(proto.SerializeToString())
    return read_output(response, Output.PROBABILITIES, rank=rank)


@pytest.mark.parametrize("shape", [(1,), (1, 7), (10, 3), (2, 10, 7), (1000, 1000)])
@pytest.mark.parametrize("as_content", [False, True], ids=["float_val", "tensor_content"])
def test_the_gateway_reads_the_floats_tensorflow_writes(shape, as_content):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    proto = tf.make_tensor_proto(values)
    if not as_content:
        proto = real_tensor.TensorProto(dtype=proto.dtype, tensor_shape=proto.tensor_shape, float_val=values.ravel())
    assert read_floats(proto, len(shape)) == values.tolist()


def test_a_float_tensor_with_fewer_values_than_its_shape_repeats_the_last():
    proto = real_tensor.TensorProto(dtype=real_types.DT_FLOAT, float_val=[1.0, 2.0])
    proto.tensor_shape.dim.add(size=4)
    assert read_floats(proto, 1) == tf.make_ndarray(proto).tolist() == [1.0, 2.0, 2.0, 2.0]
