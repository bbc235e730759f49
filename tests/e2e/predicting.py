"""Asking the model server directly, as anyone with TensorFlow Serving's API would."""

from collections.abc import Mapping

import grpc
import numpy as np
from numpy.typing import NDArray

from dermserve.tfserving.v1 import serving_pb2, tensor_pb2


def predict(
    channel: grpc.Channel, model: str, images: NDArray[np.uint8], signature: str = "serving_default"
) -> Mapping[str, NDArray[np.float32]]:
    call = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=serving_pb2.PredictRequest.SerializeToString,
        response_deserializer=serving_pb2.PredictResponse.FromString,
    )
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_content=images.tobytes())
    tensor.tensor_shape.dim.extend(tensor_pb2.TensorShapeProto.Dim(size=size) for size in images.shape)
    spec = serving_pb2.ModelSpec(name=model, signature_name=signature)
    response = call(serving_pb2.PredictRequest(model_spec=spec, inputs={"images": tensor}), timeout=300)
    return {
        name: np.array(value.float_val, np.float32).reshape([dim.size for dim in value.tensor_shape.dim])
        for name, value in response.outputs.items()
    }
