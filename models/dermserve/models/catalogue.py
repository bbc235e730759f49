"""The two models: names, classes and sizes, without importing TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LesionClass:
    """One class of a model."""

    code: str  # short code, as in the data set
    name: str  # full name
    common_name: str  # name for people who are not physicians
    malignant: bool  # cancer or its precursor


_BOWEN = "actinic keratosis or intraepithelial carcinoma (Bowen's disease)"
_AKIEC = LesionClass("akiec", _BOWEN, "sun damage that can become skin cancer", malignant=True)
_BCC = LesionClass("bcc", "basal cell carcinoma", "a common skin cancer (basal cell)", malignant=True)
_BKL = LesionClass("bkl", "benign keratosis-like lesion", "age spot or similar harmless growth", malignant=False)
_DF = LesionClass("df", "dermatofibroma", "harmless firm skin nodule", malignant=False)
_MEL = LesionClass("mel", "melanoma", "melanoma, a dangerous skin cancer", malignant=True)
_NV = LesionClass("nv", "melanocytic nevus", "mole", malignant=False)
_VASC = LesionClass("vasc", "vascular lesion", "blood vessel mark", malignant=False)
_SCC = LesionClass("scc", "squamous cell carcinoma", "a skin cancer (squamous cell)", malignant=True)
_NORMAL = LesionClass("normal", "normal skin", "normal skin", malignant=False)


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a model before it is built."""

    name: str  # model name, also in the store and on the wire
    classes: tuple[LesionClass, ...]  # in the order of the outputs
    backbone_parameters: int  # parameters of the Keras application without its top
    parameters: int  # all parameters
    input_side: int = 224  # height and width of the input, in pixels

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the classes."""
        return tuple(item.code for item in self.classes)

    @property
    def skin(self) -> int | None:
        """Index of the class for skin without a lesion, if there is one."""
        return self.classes.index(_NORMAL) if _NORMAL in self.classes else None


SPECS: Mapping[str, Spec] = {
    "resnet50": Spec("resnet50", (_AKIEC, _BCC, _BKL, _DF, _MEL, _NV, _VASC), 23_587_712, 25_693_063),
    "mobilenet_v3_small": Spec("mobilenet_v3_small", (_BCC, _SCC, _NORMAL), 939_120, 1_089_907),
}
"""By name. HAM10000's seven classes: Tschandl et al., Sci. Data 5:180161 (2018)."""
