"""The two models: names, classes and sizes, without importing TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass

from dermserve.v1.card_pb2 import ClassInfo

_BOWEN = "actinic keratosis or intraepithelial carcinoma (Bowen's disease)"
_SUN = "sun damage that can become, or already is, an early skin cancer"
_AKIEC = ClassInfo(code="akiec", name=_BOWEN, common_name=_SUN, malignant=True)
_BASAL = "a common skin cancer (basal cell)"
_BCC = ClassInfo(code="bcc", name="basal cell carcinoma", common_name=_BASAL, malignant=True)
_BKL = ClassInfo(code="bkl", name="benign keratosis-like lesion", common_name="age spot or similar harmless growth")
_DF = ClassInfo(code="df", name="dermatofibroma", common_name="harmless firm skin nodule")
_MEL = ClassInfo(code="mel", name="melanoma", common_name="melanoma, a dangerous skin cancer", malignant=True)
_NV = ClassInfo(code="nv", name="melanocytic nevus", common_name="mole")
_VASC = ClassInfo(code="vasc", name="vascular lesion", common_name="blood vessel mark")
_SQUAMOUS = "a skin cancer (squamous cell)"
_SCC = ClassInfo(code="scc", name="squamous cell carcinoma", common_name=_SQUAMOUS, malignant=True)
_NORMAL = ClassInfo(code="normal", name="normal skin", common_name="normal skin")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a model before it is built."""

    name: str  # model name, also in the store and on the wire
    classes: tuple[ClassInfo, ...]  # in the order of the outputs
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
    "resnet50": Spec("resnet50", (_AKIEC, _BCC, _BKL, _DF, _MEL, _NV, _VASC)),
    "mobilenet_v3_small": Spec("mobilenet_v3_small", (_BCC, _SCC, _NORMAL)),
}
"""By name. HAM10000's seven classes: Tschandl et al., Sci. Data 5:180161 (2018)."""
