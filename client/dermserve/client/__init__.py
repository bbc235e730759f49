"""The Python client of a dermserve gateway: photos of skin lesions in, typed predictions out.

Needs grpcio and protobuf alone: neither TensorFlow, numpy nor Pillow. Every prediction is a screening aid, never a
diagnosis.

    with Client("gateway.example:50051") as client:
        prediction = client.classify("photo.jpg", model="resnet50", tta="full")
        print(prediction.verdict, prediction.malignancy, prediction.named)
"""

from dermserve.client._client import AsyncClient, Client
from dermserve.client._connection import DEFAULT_DEADLINE, DEFAULT_TARGET, TLS
from dermserve.client._errors import (
    AccessDenied,
    DeadlineExceeded,
    DermserveError,
    Internal,
    InvalidPhoto,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    Unavailable,
    UnreadablePhoto,
)
from dermserve.client._request import Photo, TtaMode
from dermserve.client._text import render_text
from dermserve.client._values import (
    ClassScore,
    MalignancyRisk,
    Model,
    ModelVersion,
    Prediction,
    Reason,
    RiskLevel,
    Verdict,
    VersionState,
)
from dermserve.client._waiting import Answer

__all__ = [
    "DEFAULT_DEADLINE", "DEFAULT_TARGET", "TLS", "AccessDenied", "Answer", "AsyncClient", "ClassScore", "Client",
    "DeadlineExceeded", "DermserveError", "Internal", "InvalidPhoto", "InvalidRequest", "MalignancyRisk", "Model",
    "ModelVersion", "NotFound", "NotReady", "Overloaded", "Photo", "Prediction", "Reason", "RiskLevel",
    "TooLarge", "TtaMode", "Unavailable", "UnreadablePhoto", "Verdict", "VersionState", "render_text",
]  # fmt: skip
