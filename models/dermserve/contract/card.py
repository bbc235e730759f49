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
    if card.schema_version != SCHEMA_VERSION:
        known = f"this dermserve reads {SCHEMA_VERSION} alone: export the model with the dermserve that serves it"
        raise CardError(f"schema_version is {card.schema_version}, and {known}")
    if not card.model:
        raise CardError("model is empty")
    _validate_classes(card)
    if card.input.height < 1 or card.input.width < 1 or card.input.fit != card_pb2.FIT_CENTER_CROP:
        raise CardError("input needs a height, a width and a fit this dermserve knows (FIT_CENTER_CROP)")
    if not card.views or card.views[0] != "identity":
        raise CardError('views must begin with "identity"')
    if card.HasField("calibration"):
        _validate_calibration(card.calibration)
        _validate_looks(card)
        _validate_risk(card)
    if card.HasField("profile"):
        _validate_profile(card)


def _validate_classes(card: card_pb2.Card) -> None:
    codes = [info.code for info in card.classes]
    if len(codes) < 2:
        raise CardError("classes must name at least two classes")
    if not all(codes) or len(set(codes)) != len(codes):
        raise CardError("classes must have codes, all different")
    if not all(info.name for info in card.classes):
        raise CardError("classes must have full names")


def _validate_calibration(calibration: card_pb2.Calibration) -> None:
    if not (math.isfinite(calibration.temperature) and calibration.temperature > 0):
        raise CardError(f"calibration.temperature must be a positive number, not {calibration.temperature}")
    given = {field.name: value for field, value in calibration.ListFields()}
    for field in ("min_confidence", "max_view_std", "adaptive_margin"):
        if not 0 <= given.get(field, 0) <= 1:
            raise CardError(f"calibration.{field} must lie in 0..1, not {given[field]}")
    for field in ("max_ood_score", "max_scope_score"):
        if not math.isfinite(given.get(field, 0)):
            raise CardError(f"calibration.{field} must be finite")
    for limit, value in calibration.quality.ListFields():
        if not math.isfinite(value):
            raise CardError(f"calibration.quality.{limit.name} must be finite")


def _validate_risk(card: card_pb2.Card) -> None:
    points = {name: getattr(card.calibration, name) for name in ("rule_out", "rule_in")}
    given = [name for name in points if card.calibration.HasField(name)]
    if not given:
        return
    if len(given) == 1:
        raise CardError(f"calibration.{given[0]} needs the other of rule_out and rule_in beside it")
    if not any(info.malignant for info in card.classes):
        raise CardError("calibration.rule_out needs a class that is malignant")
    if not 0 <= points["rule_out"].threshold <= points["rule_in"].threshold <= 1:
        raise CardError("calibration.rule_out and rule_in must have thresholds in 0..1 that ascend")
    for name, point in points.items():
        for share in (point.sensitivity, point.specificity):
            if not 0 <= share.low <= share.value <= share.high <= 1:
                raise CardError(f"calibration.{name}: a share must lie in 0..1 and within its interval")


def _validate_looks(card: card_pb2.Card) -> None:
    looks = card.calibration.adaptive_looks
    views = [look.views for look in looks]
    if views != sorted(set(views)) or not all(1 < count < len(card.views) for count in views):
        raise CardError("calibration.adaptive_looks must ascend in views, after the first view and before the last")
    if not all(0 <= look.margin <= 1 for look in looks):
        raise CardError("calibration.adaptive_looks: each margin must lie in 0..1")


def _validate_profile(card: card_pb2.Card) -> None:
    if len(card.profile.class_shares) != len(card.classes):
        raise CardError(f"profile.class_shares must have {len(card.classes)} shares, one for each class")
    shares = {"class_shares": card.profile.class_shares}
    for field in ("confidence", "brightness", "sharpness"):
        histogram = getattr(card.profile, field)
        edges = list(histogram.edges)
        if len(histogram.shares) != len(edges) + 1:
            raise CardError(f"profile.{field} needs one share more than edges")
        if not all(map(math.isfinite, [histogram.mean, *edges])) or edges != sorted(set(edges)):
            raise CardError(f"profile.{field} needs finite numbers, and edges that ascend")
        shares[f"{field}.shares"] = histogram.shares
    for field, values in shares.items():
        if not all(0 <= share <= 1 for share in values) or abs(sum(values) - 1) > 1e-6:
            raise CardError(f"profile.{field} must lie in 0..1 and sum to 1")
