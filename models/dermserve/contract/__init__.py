"""The model contract: what every version directory holds, for its writers and readers.

Imports neither TensorFlow nor numpy, so the gateway can read what the exporter wrote.
"""

from dermserve.contract.card import SCHEMA_VERSION, CardError, parse_card, render_card, validate_card
from dermserve.contract.signatures import Input, Output, Signature

__all__ = [
    "SCHEMA_VERSION",
    "CardError",
    "Input",
    "Output",
    "Signature",
    "parse_card",
    "render_card",
    "validate_card",
]
