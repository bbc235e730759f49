"""What a person reads."""

import dataclasses

import pytest

from dermserve.client import Client, Reason, RiskLevel, Verdict, _text, render_text
from tests.client.fake_gateway import NOTICE


@pytest.fixture
def full(target):
    with Client(target) as client:
        return client.classify(b"1", model="resnet50", tta="full", request_id="r")


def test_everything_a_person_needs_is_there(full):
    text = render_text(full)
    for words in (
        "resnet50 version 3",
        "9 of 10 views",
        "uncertain",
        "neither ruled out nor likely enough",
        "LOW_CONFIDENCE",
    ):
        assert words in text
    for words in ("melanoma (mel)", "75.0 % ±  5.0", "predict 20.0 ms", "total 23.0 ms", full.request_id, NOTICE):
        assert words in text
    assert text.index("melanoma") < text.index("mole (nv)")
    assert text.lstrip().startswith("CAN'T RULE OUT skin cancer")
    assert "malignancy risk 75.0 ± 5.0 %" in text


def test_one_view_has_no_spread(target):
    with Client(target) as client:
        text = render_text(client.classify(b"1", model="resnet50"))
    assert "1 of 1 view\n" in text
    assert "±" not in text


@pytest.mark.parametrize(
    ("share", "words"), [(0, "<0.1"), (0.0004, "<0.1"), (0.0006, "0.1"), (0.9994, "99.9"), (0.9996, ">99.9")]
)
def test_no_share_reads_as_certain(full, share, words):
    classes = tuple(dataclasses.replace(one, probability=share) for one in full.classes)
    risk = dataclasses.replace(full.malignancy, probability=share)
    text = render_text(dataclasses.replace(full, classes=classes, malignancy=risk))
    assert f"(malignancy risk {words} ±" in text
    assert text.count(f" {words} % ±") == 2


def test_bars_are_as_long_as_probabilities(full):
    lines = render_text(full).splitlines()
    mel, nevus = (next(line for line in lines if code in line) for code in ("(mel)", "(nv)"))
    assert (mel.count("█"), nevus.count("█")) == (18, 6)


def test_a_verdict_of_a_newer_server_is_not_taken_for_confidence(full):
    text = render_text(dataclasses.replace(full, verdict=Verdict("UNKNOWN_9"), reasons=(Reason("UNKNOWN_8"),)))
    assert "UNKNOWN_9: take it for uncertain" in text
    assert "UNKNOWN_8" in text


@pytest.mark.parametrize(("enum", "table"), [(Verdict, "_VERDICTS"), (Reason, "_REASONS"), (RiskLevel, "_LEVELS")])
def test_every_verdict_and_reason_has_words(enum, table):
    assert set(getattr(_text, table)) == set(enum)
