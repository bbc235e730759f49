import pytest

from dermserve.contract import CardError, parse_card, render_card, validate_card
from dermserve.v1 import card_pb2


@pytest.fixture
def card() -> card_pb2.Card:
    return card_pb2.Card(
        schema_version=2,
        model="resnet50",
        classes=[card_pb2.ClassInfo(code="a", name="class a"), card_pb2.ClassInfo(code="b", name="class b")],
        input=card_pb2.InputSpec(height=224, width=224, fit=card_pb2.FIT_CENTER_CROP),
        views=["identity", "rot90", "rot180"],
        calibration=card_pb2.Calibration(temperature=1.5, min_confidence=0.6),
    )


def test_a_card_survives_the_round_trip_and_what_was_not_fitted_stays_absent(card: card_pb2.Card) -> None:
    assert parse_card(render_card(card)) == card
    card.profile.CopyFrom(_profile())
    assert parse_card(render_card(card)) == card
    assert not parse_card(render_card(card)).calibration.HasField("max_view_std")


def test_fields_of_a_later_revision_are_ignored(card: card_pb2.Card) -> None:
    assert parse_card(render_card(card)[:-1] + ', "from_the_future": 1}') == card


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"model": 3}', b"\xff\xfe"])
def test_what_is_no_card_is_refused(text: str | bytes) -> None:
    with pytest.raises(CardError):
        parse_card(text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: setattr(c, "schema_version", 0), "schema_version"),
        (lambda c: setattr(c, "schema_version", 1), "schema_version is 1.*export the model"),
        (lambda c: setattr(c, "schema_version", 3), "schema_version"),
        (lambda c: setattr(c, "model", ""), "model"),
        (lambda c: c.classes.pop(), "classes"),
        (lambda c: setattr(c.classes[0], "code", "b"), "classes"),
        (lambda c: setattr(c.classes[0], "name", ""), "classes"),
        (lambda c: setattr(c.input, "fit", 0), "input"),
        (lambda c: setattr(c.input, "height", 0), "input"),
        (lambda c: c.views.insert(0, "rot90"), "views"),
        (lambda c: setattr(c.calibration, "temperature", 0), "temperature"),
        (lambda c: setattr(c.calibration, "temperature", float("nan")), "temperature"),
        (lambda c: setattr(c.calibration, "min_confidence", 1.5), "min_confidence"),
        (lambda c: setattr(c.calibration, "max_view_std", float("nan")), "max_view_std"),
        (lambda c: setattr(c.calibration, "max_ood_score", float("inf")), "max_ood_score"),
        (lambda c: c.calibration.adaptive_looks.add(views=1, margin=0.5), "adaptive_looks"),
        (lambda c: c.calibration.adaptive_looks.add(views=3, margin=0.5), "adaptive_looks"),
        (lambda c: [c.calibration.adaptive_looks.add(views=2, margin=0.5) for _ in range(2)], "adaptive_looks"),
        (lambda c: c.calibration.adaptive_looks.add(views=2, margin=float("nan")), "margin"),
    ],
)
def test_a_card_that_cannot_be_trusted_names_its_fault(card: card_pb2.Card, change, named: str) -> None:
    change(card)
    with pytest.raises(CardError, match=named):
        validate_card(card)


def _profile(**changes: object) -> card_pb2.Profile:
    histogram = card_pb2.Histogram(edges=[0.5], shares=[0.25, 0.75], mean=0.6)
    usual = {"class_shares": [0.5, 0.5], "confidence": histogram, "brightness": histogram, "sharpness": histogram}
    return card_pb2.Profile(photos=8, **(usual | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_shares": [1.0]}, "class_shares"),
        ({"class_shares": [0.5, 0.6]}, "class_shares"),
        ({"class_shares": [-0.5, 1.5]}, "class_shares"),
        ({"brightness": card_pb2.Histogram()}, "brightness"),
        ({"brightness": card_pb2.Histogram(edges=[2, 1], shares=[0, 1, 0])}, "brightness"),
        ({"sharpness": card_pb2.Histogram(edges=[float("nan")], shares=[0, 1])}, "sharpness"),
        ({"confidence": card_pb2.Histogram(edges=[1], shares=[float("nan"), 1])}, "confidence"),
    ],
)
def test_a_profile_that_cannot_be_compared_with_is_refused(card: card_pb2.Card, changes, named: str) -> None:
    card.profile.CopyFrom(_profile(**changes))
    with pytest.raises(CardError, match=named):
        validate_card(card)
