"""The model contract: what every version directory holds (docs/model-contract.md). Imports no TensorFlow, no numpy."""

from enum import StrEnum

from dermserve.contract.card import SCHEMA_VERSION, CardError, parse_card, render_card, validate_card

__all__ = [
    "SCHEMA_VERSION", "CardError", "Input", "Output", "Signature", "parse_card", "render_card", "validate_card",
]  # fmt: skip


class Signature(StrEnum):
    """Signature keys of every version."""

    SERVING_DEFAULT = "serving_default"  # uint8 pixels in; the gateway's fast path
    ENCODED = "encoded"  # JPEG or PNG files in; decode, fit and normalise in graph
    TTA = "tta"  # uint8 pixels in; the mean over the standard views, made in graph
    DESCRIBE = "describe"  # any strings in; the card for each


class Input(StrEnum):
    """Input names."""

    IMAGES = "images"  # uint8 [N, height, width, 3], RGB
    IMAGE_BYTES = "image_bytes"  # string [N], one JPEG or PNG file each
    QUERY = "query"  # string [N], ignored: every signature has an input with a batch dimension


class Output(StrEnum):
    """Output names."""

    PROBABILITIES = "probabilities"  # float32 [N, C], calibrated; each row sums to 1
    LOGITS = "logits"  # float32 [N, C], before the temperature
    OOD_SCORE = "ood_score"
    """float32 [N], out-of-distribution score: the higher, the less a photo looks like the training data."""
    VIEW_PROBABILITIES = "view_probabilities"  # float32 [N, V, C], of the `tta` signature alone
    CARD = "card"  # string [N], proto3 JSON of dermserve.v1.Card
