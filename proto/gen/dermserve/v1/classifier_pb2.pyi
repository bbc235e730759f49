from dermserve.v1 import card_pb2 as _card_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
from google.rpc import error_details_pb2 as _error_details_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TtaMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TTA_MODE_UNSPECIFIED: _ClassVar[TtaMode]
    TTA_MODE_NONE: _ClassVar[TtaMode]
    TTA_MODE_FULL: _ClassVar[TtaMode]
    TTA_MODE_ADAPTIVE: _ClassVar[TtaMode]

class RiskLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_LEVEL_UNSPECIFIED: _ClassVar[RiskLevel]
    RISK_LEVEL_LOW: _ClassVar[RiskLevel]
    RISK_LEVEL_INTERMEDIATE: _ClassVar[RiskLevel]
    RISK_LEVEL_HIGH: _ClassVar[RiskLevel]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CONFIDENT: _ClassVar[Verdict]
    VERDICT_UNCERTAIN: _ClassVar[Verdict]
    VERDICT_REJECTED: _ClassVar[Verdict]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_UNTRAINED_MODEL: _ClassVar[Reason]
    REASON_UNCALIBRATED_MODEL: _ClassVar[Reason]
    REASON_LOW_CONFIDENCE: _ClassVar[Reason]
    REASON_VIEW_DISAGREEMENT: _ClassVar[Reason]
    REASON_NOT_SKIN: _ClassVar[Reason]
    REASON_OUT_OF_SCOPE: _ClassVar[Reason]
    REASON_TOO_DARK: _ClassVar[Reason]
    REASON_TOO_BRIGHT: _ClassVar[Reason]
    REASON_NO_COLOR: _ClassVar[Reason]
    REASON_BLURRED: _ClassVar[Reason]
    REASON_UNIFORM: _ClassVar[Reason]

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_START: _ClassVar[VersionState]
    VERSION_STATE_LOADING: _ClassVar[VersionState]
    VERSION_STATE_AVAILABLE: _ClassVar[VersionState]
    VERSION_STATE_UNLOADING: _ClassVar[VersionState]
    VERSION_STATE_END: _ClassVar[VersionState]
TTA_MODE_UNSPECIFIED: TtaMode
TTA_MODE_NONE: TtaMode
TTA_MODE_FULL: TtaMode
TTA_MODE_ADAPTIVE: TtaMode
RISK_LEVEL_UNSPECIFIED: RiskLevel
RISK_LEVEL_LOW: RiskLevel
RISK_LEVEL_INTERMEDIATE: RiskLevel
RISK_LEVEL_HIGH: RiskLevel
VERDICT_UNSPECIFIED: Verdict
VERDICT_CONFIDENT: Verdict
VERDICT_UNCERTAIN: Verdict
VERDICT_REJECTED: Verdict
REASON_UNSPECIFIED: Reason
REASON_UNTRAINED_MODEL: Reason
REASON_UNCALIBRATED_MODEL: Reason
REASON_LOW_CONFIDENCE: Reason
REASON_VIEW_DISAGREEMENT: Reason
REASON_NOT_SKIN: Reason
REASON_OUT_OF_SCOPE: Reason
REASON_TOO_DARK: Reason
REASON_TOO_BRIGHT: Reason
REASON_NO_COLOR: Reason
REASON_BLURRED: Reason
REASON_UNIFORM: Reason
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_START: VersionState
VERSION_STATE_LOADING: VersionState
VERSION_STATE_AVAILABLE: VersionState
VERSION_STATE_UNLOADING: VersionState
VERSION_STATE_END: VersionState

class ModelSelector(_message.Message):
    __slots__ = ("name", "version", "label")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    label: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "image", "tta", "include_rejected_classes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TTA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REJECTED_CLASSES_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    image: bytes
    tta: TtaMode
    include_rejected_classes: bool
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., image: _Optional[bytes] = ..., tta: _Optional[_Union[TtaMode, str]] = ..., include_rejected_classes: _Optional[bool] = ...) -> None: ...

class ClassifyPhotoRequest(_message.Message):
    __slots__ = ("model", "photo", "tta", "include_rejected_classes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PHOTO_FIELD_NUMBER: _ClassVar[int]
    TTA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REJECTED_CLASSES_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    photo: _httpbody_pb2.HttpBody
    tta: TtaMode
    include_rejected_classes: bool
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., photo: _Optional[_Union[_httpbody_pb2.HttpBody, _Mapping]] = ..., tta: _Optional[_Union[TtaMode, str]] = ..., include_rejected_classes: _Optional[bool] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("request_id", "model", "version", "classes", "verdict", "reasons", "views_asked", "views_used", "timings", "notice", "malignancy", "named_class", "weights_digest", "gateway_version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_ASKED_FIELD_NUMBER: _ClassVar[int]
    VIEWS_USED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    MALIGNANCY_FIELD_NUMBER: _ClassVar[int]
    NAMED_CLASS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    version: int
    classes: _containers.RepeatedCompositeFieldContainer[ClassScore]
    verdict: Verdict
    reasons: _containers.RepeatedScalarFieldContainer[Reason]
    views_asked: int
    views_used: int
    timings: Timings
    notice: str
    malignancy: MalignancyRisk
    named_class: str
    weights_digest: str
    gateway_version: str
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., classes: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reasons: _Optional[_Iterable[_Union[Reason, str]]] = ..., views_asked: _Optional[int] = ..., views_used: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., notice: _Optional[str] = ..., malignancy: _Optional[_Union[MalignancyRisk, _Mapping]] = ..., named_class: _Optional[str] = ..., weights_digest: _Optional[str] = ..., gateway_version: _Optional[str] = ...) -> None: ...

class MalignancyRisk(_message.Message):
    __slots__ = ("level", "probability", "std")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    level: RiskLevel
    probability: float
    std: float
    def __init__(self, level: _Optional[_Union[RiskLevel, str]] = ..., probability: _Optional[float] = ..., std: _Optional[float] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("code", "name", "probability", "std", "common_name", "malignant")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    COMMON_NAME_FIELD_NUMBER: _ClassVar[int]
    MALIGNANT_FIELD_NUMBER: _ClassVar[int]
    code: str
    name: str
    probability: float
    std: float
    common_name: str
    malignant: bool
    def __init__(self, code: _Optional[str] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ..., std: _Optional[float] = ..., common_name: _Optional[str] = ..., malignant: _Optional[bool] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode_ms", "plan_ms", "predict_ms", "reduce_ms", "total_ms")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    PLAN_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICT_MS_FIELD_NUMBER: _ClassVar[int]
    REDUCE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    plan_ms: float
    predict_ms: float
    reduce_ms: float
    total_ms: float
    def __init__(self, decode_ms: _Optional[float] = ..., plan_ms: _Optional[float] = ..., predict_ms: _Optional[float] = ..., reduce_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: ClassifyRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[ClassifyRequest, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: ClassifyResponse
    error: _status_pb2.Status
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ErrorDetails(_message.Message):
    __slots__ = ("error_info", "retry_info")
    ERROR_INFO_FIELD_NUMBER: _ClassVar[int]
    RETRY_INFO_FIELD_NUMBER: _ClassVar[int]
    error_info: _error_details_pb2.ErrorInfo
    retry_info: _error_details_pb2.RetryInfo
    def __init__(self, error_info: _Optional[_Union[_error_details_pb2.ErrorInfo, _Mapping]] = ..., retry_info: _Optional[_Union[_error_details_pb2.RetryInfo, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "versions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, name: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "labels", "card", "ready")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    version: int
    state: VersionState
    labels: _containers.RepeatedScalarFieldContainer[str]
    card: _card_pb2.Card
    ready: bool
    def __init__(self, version: _Optional[int] = ..., state: _Optional[_Union[VersionState, str]] = ..., labels: _Optional[_Iterable[str]] = ..., card: _Optional[_Union[_card_pb2.Card, _Mapping]] = ..., ready: _Optional[bool] = ...) -> None: ...
