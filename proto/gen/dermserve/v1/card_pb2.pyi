from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_UNSPECIFIED: _ClassVar[Fit]
    FIT_CENTER_CROP: _ClassVar[Fit]

class Training(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRAINING_UNSPECIFIED: _ClassVar[Training]
    TRAINING_NONE: _ClassVar[Training]
    TRAINING_TRAINED: _ClassVar[Training]
FIT_UNSPECIFIED: Fit
FIT_CENTER_CROP: Fit
TRAINING_UNSPECIFIED: Training
TRAINING_NONE: Training
TRAINING_TRAINED: Training

class Card(_message.Message):
    __slots__ = ("schema_version", "model", "classes", "input", "views", "parameters", "weights_digest", "provenance", "calibration", "profile")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    model: str
    classes: _containers.RepeatedCompositeFieldContainer[ClassInfo]
    input: InputSpec
    views: _containers.RepeatedScalarFieldContainer[str]
    parameters: int
    weights_digest: str
    provenance: Provenance
    calibration: Calibration
    profile: Profile
    def __init__(self, schema_version: _Optional[int] = ..., model: _Optional[str] = ..., classes: _Optional[_Iterable[_Union[ClassInfo, _Mapping]]] = ..., input: _Optional[_Union[InputSpec, _Mapping]] = ..., views: _Optional[_Iterable[str]] = ..., parameters: _Optional[int] = ..., weights_digest: _Optional[str] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...

class ClassInfo(_message.Message):
    __slots__ = ("code", "name", "malignant", "common_name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MALIGNANT_FIELD_NUMBER: _ClassVar[int]
    COMMON_NAME_FIELD_NUMBER: _ClassVar[int]
    code: str
    name: str
    malignant: bool
    common_name: str
    def __init__(self, code: _Optional[str] = ..., name: _Optional[str] = ..., malignant: _Optional[bool] = ..., common_name: _Optional[str] = ...) -> None: ...

class InputSpec(_message.Message):
    __slots__ = ("height", "width", "fit")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    fit: Fit
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., fit: _Optional[_Union[Fit, str]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("training", "initialization", "data", "license", "exported_at", "exporter", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    INITIALIZATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    training: Training
    initialization: str
    data: str
    license: str
    exported_at: str
    exporter: str
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, training: _Optional[_Union[Training, str]] = ..., initialization: _Optional[str] = ..., data: _Optional[str] = ..., license: _Optional[str] = ..., exported_at: _Optional[str] = ..., exporter: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("temperature", "min_confidence", "max_view_std", "adaptive_margin", "max_ood_score", "method", "adaptive_looks", "rule_out", "rule_in", "max_scope_score", "quality")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_VIEW_STD_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_MARGIN_FIELD_NUMBER: _ClassVar[int]
    MAX_OOD_SCORE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_LOOKS_FIELD_NUMBER: _ClassVar[int]
    RULE_OUT_FIELD_NUMBER: _ClassVar[int]
    RULE_IN_FIELD_NUMBER: _ClassVar[int]
    MAX_SCOPE_SCORE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    min_confidence: float
    max_view_std: float
    adaptive_margin: float
    max_ood_score: float
    method: str
    adaptive_looks: _containers.RepeatedCompositeFieldContainer[Look]
    rule_out: OperatingPoint
    rule_in: OperatingPoint
    max_scope_score: float
    quality: QualityLimits
    def __init__(self, temperature: _Optional[float] = ..., min_confidence: _Optional[float] = ..., max_view_std: _Optional[float] = ..., adaptive_margin: _Optional[float] = ..., max_ood_score: _Optional[float] = ..., method: _Optional[str] = ..., adaptive_looks: _Optional[_Iterable[_Union[Look, _Mapping]]] = ..., rule_out: _Optional[_Union[OperatingPoint, _Mapping]] = ..., rule_in: _Optional[_Union[OperatingPoint, _Mapping]] = ..., max_scope_score: _Optional[float] = ..., quality: _Optional[_Union[QualityLimits, _Mapping]] = ...) -> None: ...

class OperatingPoint(_message.Message):
    __slots__ = ("threshold", "sensitivity", "specificity")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    SPECIFICITY_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    sensitivity: Share
    specificity: Share
    def __init__(self, threshold: _Optional[float] = ..., sensitivity: _Optional[_Union[Share, _Mapping]] = ..., specificity: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class QualityLimits(_message.Message):
    __slots__ = ("min_brightness", "max_brightness", "max_glare", "min_color", "min_detail", "min_contrast", "min_redness", "max_redness", "min_yellowness", "max_yellowness")
    MIN_BRIGHTNESS_FIELD_NUMBER: _ClassVar[int]
    MAX_BRIGHTNESS_FIELD_NUMBER: _ClassVar[int]
    MAX_GLARE_FIELD_NUMBER: _ClassVar[int]
    MIN_COLOR_FIELD_NUMBER: _ClassVar[int]
    MIN_DETAIL_FIELD_NUMBER: _ClassVar[int]
    MIN_CONTRAST_FIELD_NUMBER: _ClassVar[int]
    MIN_REDNESS_FIELD_NUMBER: _ClassVar[int]
    MAX_REDNESS_FIELD_NUMBER: _ClassVar[int]
    MIN_YELLOWNESS_FIELD_NUMBER: _ClassVar[int]
    MAX_YELLOWNESS_FIELD_NUMBER: _ClassVar[int]
    min_brightness: float
    max_brightness: float
    max_glare: float
    min_color: float
    min_detail: float
    min_contrast: float
    min_redness: float
    max_redness: float
    min_yellowness: float
    max_yellowness: float
    def __init__(self, min_brightness: _Optional[float] = ..., max_brightness: _Optional[float] = ..., max_glare: _Optional[float] = ..., min_color: _Optional[float] = ..., min_detail: _Optional[float] = ..., min_contrast: _Optional[float] = ..., min_redness: _Optional[float] = ..., max_redness: _Optional[float] = ..., min_yellowness: _Optional[float] = ..., max_yellowness: _Optional[float] = ...) -> None: ...

class Look(_message.Message):
    __slots__ = ("views", "margin")
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    views: int
    margin: float
    def __init__(self, views: _Optional[int] = ..., margin: _Optional[float] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("photos", "class_shares", "confidence", "brightness", "sharpness")
    PHOTOS_FIELD_NUMBER: _ClassVar[int]
    CLASS_SHARES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    BRIGHTNESS_FIELD_NUMBER: _ClassVar[int]
    SHARPNESS_FIELD_NUMBER: _ClassVar[int]
    photos: int
    class_shares: _containers.RepeatedScalarFieldContainer[float]
    confidence: Histogram
    brightness: Histogram
    sharpness: Histogram
    def __init__(self, photos: _Optional[int] = ..., class_shares: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Union[Histogram, _Mapping]] = ..., brightness: _Optional[_Union[Histogram, _Mapping]] = ..., sharpness: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("edges", "shares", "mean")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    shares: _containers.RepeatedScalarFieldContainer[float]
    mean: float
    def __init__(self, edges: _Optional[_Iterable[float]] = ..., shares: _Optional[_Iterable[float]] = ..., mean: _Optional[float] = ...) -> None: ...
