"""Reading, writing and checking a version's card: a `dermserve.v1.Card`, in a SavedModel as its proto3 JSON."""

import math

from google.protobuf import json_format

from dermserve.v1 import card_pb2

SCHEMA_VERSION = 2  # of the cards that this code writes and reads: in others a number may mean something else


class CardError(ValueError):
    """A card that is not valid. The message says which field and why."""


def render_card(card: card_pb2.Card) -> str:
    """Render a valid card as the JSON a version carries. Raises CardError: the card is not valid."""
    validate_card(card)
    return json_format.MessageToJson(card, preserving_proto_field_name=True, indent=None, sort_keys=True)


def parse_card(text: str | bytes) -> card_pb2.Card:
    """Parse and check a version's JSON, without fields of later revisions; a CardError if it is no valid card."""
    try:
        card = json_format.Parse(text, card_pb2.Card(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise CardError(f"the card is not a dermserve.v1.Card in JSON: {error}") from error
    validate_card(card)
    return card


def validate_card(card: card_pb2.Card) -> None:
    """Check the fields that readers rely on. Raises CardError: the first one that is wrong."""
    known = f"this dermserve reads {SCHEMA_VERSION} alone: export the model with the dermserve that serves it"
    _require(card.schema_version == SCHEMA_VERSION, f"schema_version is {card.schema_version}, and {known}")
    _require(card.model != "", "model is empty")
    codes = [info.code for info in card.classes]
    _require(len(codes) > 1, "classes must name at least two classes")
    _require(all(codes) and len(set(codes)) == len(codes), "classes must have codes, all different")
    _require(all(info.name for info in card.classes), "classes must have full names")
    fits = min(card.input.height, card.input.width) > 0 and card.input.fit == card_pb2.FIT_CENTER_CROP
    _require(fits, "input needs a height, a width and a fit this dermserve knows (FIT_CENTER_CROP)")
    _require(card.views[:1] == ["identity"], 'views must begin with "identity"')
    if card.HasField("calibration"):
        _validate_calibration(card)
        _validate_risk(card)
    if card.HasField("profile"):
        _validate_profile(card)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise CardError(fault)


def _validate_calibration(card: card_pb2.Card) -> None:
    calibration, temperature = card.calibration, card.calibration.temperature
    _require(0 < temperature < math.inf, f"calibration.temperature must be a positive number, not {temperature}")
    for field in ("min_confidence", "max_view_std", "adaptive_margin"):
        share = getattr(calibration, field)
        _require(0 <= share <= 1, f"calibration.{field} must lie in 0..1, not {share}")
    for field in ("max_ood_score", "max_scope_score"):
        _require(math.isfinite(getattr(calibration, field)), f"calibration.{field} must be finite")
    for limit, value in calibration.quality.ListFields():
        _require(math.isfinite(value), f"calibration.quality.{limit.name} must be finite")
    views = [look.views for look in calibration.adaptive_looks]
    ascend = views == sorted(set(views)) and all(1 < count < len(card.views) for count in views)
    _require(ascend, "calibration.adaptive_looks must ascend in views, after the first view and before the last")
    shares = all(0 <= look.margin <= 1 for look in calibration.adaptive_looks)
    _require(shares, "calibration.adaptive_looks: each margin must lie in 0..1")


def _validate_risk(card: card_pb2.Card) -> None:
    points = {name: getattr(card.calibration, name) for name in ("rule_out", "rule_in")}
    given = [name for name in points if card.calibration.HasField(name)]
    if not given:
        return
    _require(len(given) == 2, f"calibration.{given[0]} needs the other of rule_out and rule_in beside it")
    malignant = any(info.malignant for info in card.classes)
    _require(malignant, "calibration.rule_out needs a class that is malignant")
    ascend = 0 <= points["rule_out"].threshold <= points["rule_in"].threshold <= 1
    _require(ascend, "calibration.rule_out and rule_in must have thresholds in 0..1 that ascend")
    for name, point in points.items():
        for share in (point.sensitivity, point.specificity):
            lies = 0 <= share.low <= share.value <= share.high <= 1
            _require(lies, f"calibration.{name}: a share must lie in 0..1 and within its interval")


def _validate_profile(card: card_pb2.Card) -> None:
    shares, classes = {"class_shares": card.profile.class_shares}, len(card.classes)
    text = f"profile.class_shares must have {classes} shares, one for each class"
    _require(len(shares["class_shares"]) == classes, text)
    for field in ("confidence", "brightness", "sharpness"):
        histogram = getattr(card.profile, field)
        edges = list(histogram.edges)
        _require(len(histogram.shares) == len(edges) + 1, f"profile.{field} needs one share more than edges")
        sound = all(map(math.isfinite, [histogram.mean, *edges])) and edges == sorted(set(edges))
        _require(sound, f"profile.{field} needs finite numbers, and edges that ascend")
        shares[f"{field}.shares"] = histogram.shares
    for field, values in shares.items():
        sound = all(0 <= share <= 1 for share in values) and abs(sum(values) - 1) <= 1e-6
        _require(sound, f"profile.{field} must lie in 0..1 and sum to 1")
