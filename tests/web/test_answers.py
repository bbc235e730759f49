"""What each answer is said to be: the level, what to do, and why."""

import pathlib

import pytest
from playwright.sync_api import expect

from tests.web.page import App

_LOW = "Low risk: no sign of skin cancer was found"
_OPEN = "Skin cancer can't be ruled out"
_HIGH = "High risk: this looks like skin cancer"
_NONE = "No answer for this spot"
_REJECTED = "This photo can't be used"


@pytest.mark.parametrize(
    ("verdict", "reasons", "level", "title", "words"),
    [
        ("CONFIDENT", [], "LOW", _LOW, "Look at the spot again in a month"),
        ("CONFIDENT", [], "HIGH", _HIGH, "Call a dermatologist today"),
        ("UNCERTAIN", ["LOW_CONFIDENCE"], "INTERMEDIATE", _OPEN, "within the next few weeks"),
        ("UNCERTAIN", ["LOW_CONFIDENCE"], "HIGH", _HIGH, "not clear either way"),
        ("UNCERTAIN", ["VIEW_DISAGREEMENT"], "INTERMEDIATE", _OPEN, "different results"),
        ("UNCERTAIN", ["OUT_OF_SCOPE"], "INTERMEDIATE", _OPEN, "can't be recognised here"),
        ("UNCERTAIN", ["TOO_DARK"], "INTERMEDIATE", _OPEN, "more light"),
        ("UNCERTAIN", ["TOO_BRIGHT"], "INTERMEDIATE", _OPEN, "without flash"),
        ("UNCERTAIN", ["NO_COLOR"], "INTERMEDIATE", _OPEN, "without filters"),
        ("UNCERTAIN", ["BLURRED"], "INTERMEDIATE", _OPEN, "Hold still"),
        ("UNCERTAIN", ["UNIFORM"], "INTERMEDIATE", _OPEN, "into the middle"),
        ("UNCERTAIN", ["UNTRAINED_MODEL"], None, _NONE, "not learned to judge skin"),
        ("UNCERTAIN", ["UNCALIBRATED_MODEL"], None, _NONE, "hasn't been tested yet"),
        ("REJECTED", ["NOT_SKIN"], None, _REJECTED, "Move closer"),
        # What no server of today says:
        ("UNCERTAIN", ["BLURRED"], "LOW", _OPEN, "Hold still"),
        ("CONFIDENT", ["BLURRED"], "LOW", _OPEN, "Hold still"),
        ("REJECTED", ["NOT_SKIN"], "LOW", _REJECTED, "Move closer"),
        ("CONFIDENT", [], None, _NONE, "good or bad"),
        ("CONFIDENT", [], "UNSPECIFIED", _NONE, "good or bad"),
        ("OF_TOMORROW", ["OF_TOMORROW"], "OF_TOMORROW", _NONE, "good or bad"),
        ("OF_TOMORROW", ["OF_TOMORROW"], "LOW", _OPEN, "dermatologist soon"),
    ],
)
def test_an_answer_is_said_in_plain_words(
    tidy: App,
    lesion: pathlib.Path,
    confident: dict[str, object],
    verdict: str,
    reasons: list[str],
    level: str | None,
    title: str,
    words: str,
) -> None:
    risk = {"malignancy": {"level": f"RISK_LEVEL_{level}"} if level else None}
    reasons = [f"REASON_{reason}" for reason in reasons]
    tidy.answer_with({**confident, **risk, "verdict": f"VERDICT_{verdict}", "reasons": reasons})
    result = tidy.classify(lesion)
    said = result.inner_text()
    assert result.locator("#verdict").inner_text() == title
    assert words in said
    assert ("most resembles" in said) == (verdict == "CONFIDENT" and title != _NONE)
    assert not any(word in said for word in ("VERDICT", "REASON", "RISK_LEVEL", "resnet50", "gateway"))
    assert (result.locator(".scores").count() == 1) == (title not in (_NONE, _REJECTED))


def test_levels_differ_in_shape_and_words_not_in_colour_alone(
    tidy: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    looks = set()
    for level in ("LOW", "INTERMEDIATE", "HIGH"):
        tidy.answer_with({**confident, "malignancy": {"level": f"RISK_LEVEL_{level}"}})
        shape = tidy.classify(lesion).locator(".level path").get_attribute("d")
        style = "getComputedStyle(document.querySelector('.verdict'))"
        looks.add((shape, tidy.page.evaluate(f"{style}.borderStyle + {style}.borderWidth")))
        tidy.press("Close without saving")
    assert len({shape for shape, _ in looks}) == len({border for _, border in looks}) == 3


def test_what_to_do_better_is_told_apart_from_why_it_is_not_sure(
    tidy: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    both = ["REASON_BLURRED", "REASON_LOW_CONFIDENCE"]
    tidy.answer_with({**confident, "verdict": "VERDICT_UNCERTAIN", "reasons": both})
    lists = tidy.classify(lesion).locator(".verdict div:has(> h3)")
    photo, other = lists.all_inner_texts()
    assert photo.startswith("What to do better in the next photo")
    assert "Hold still" in photo
    assert other.startswith("Why it can't be said more surely")
    assert "not clear either way" in other
    tidy.press("Show or print for a doctor")
    report = tidy.page.locator(".report")
    expect(report).to_contain_text("Hold still")
    expect(report).to_contain_text("not clear either way")
    tidy.go("/")
    tidy.answer_with({**confident, "verdict": "VERDICT_REJECTED", "reasons": ["REASON_NOT_SKIN", *both]})
    said = tidy.classify(lesion).inner_text()
    assert "Hold still" in said
    assert "not clear either way" not in said  # of what is no photo of a spot


def test_no_share_reads_as_certain(tidy: App, lesion: pathlib.Path, confident: dict[str, object]) -> None:
    classes = [{"code": "nv", "probability": 0.99996}, {"code": "mel", "probability": 0.00004, "malignant": True}]
    risk = {"level": "RISK_LEVEL_LOW", "probability": 0.00004}
    tidy.answer_with({**confident, "classes": classes, "malignancy": risk, "viewsUsed": 1})
    result = tidy.classify(lesion)
    tidy.unfold()
    assert result.locator(".value").all_inner_texts() == [">99.9 %", "<0.1 %"]
    assert result.locator(".facts dd").last.inner_text() == "<0.1 %"


@pytest.mark.parametrize(
    ("verdict", "reason", "first", "others"),
    [
        ("REJECTED", "NOT_SKIN", "Take another photo", ["Close without saving"]),
        ("UNCERTAIN", "BLURRED", "Take another photo", ["Save to history"]),
        ("UNCERTAIN", "OUT_OF_SCOPE", "Save to history", ["Close without saving"]),
    ],
)
def test_where_another_photo_helps_it_is_the_first_action(
    tidy: App,
    lesion: pathlib.Path,
    confident: dict[str, object],
    verdict: str,
    reason: str,
    first: str,
    others: list[str],
) -> None:
    tidy.answer_with({**confident, "verdict": f"VERDICT_{verdict}", "reasons": [f"REASON_{reason}"]})
    tidy.classify(lesion)
    buttons = tidy.page.locator(".sticky button")
    assert buttons.all_inner_texts() == [first, *others]
    assert ("Take another photo first" in tidy.words()) == (reason == "BLURRED")
    assert "primary" in (buttons.first.get_attribute("class") or "")
    if first == "Take another photo":
        tidy.press(first)
        expect(tidy.page.locator("video")).to_be_visible()
