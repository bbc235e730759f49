"""What a person does with the page: one test a task."""

import pathlib
import re

import pytest
from playwright.sync_api import Route, expect

from tests.drawing import draw_lesion
from tests.web.page import App

_LOW = "Low risk: no sign of skin cancer was found"
_RAISED = "Have this spot seen by a dermatologist"


def test_each_part_has_an_address_and_the_browsers_back_goes_where_one_came_from(app: App) -> None:
    for name, address in (("History", "/history"), ("Learn", "/learn"), ("Settings", "/settings")):
        app.tab(name)
        expect(app.page.locator("h1")).to_have_text(name)
        assert app.page.url.endswith(f"#{address}")
        expect(app.page.get_by_role("link", name=name)).to_have_attribute("aria-current", "page")
    app.page.go_back()
    expect(app.page.locator("h1")).to_have_text("Learn")
    app.page.reload()
    expect(app.page.locator("h1")).to_have_text("Learn")
    app.page.get_by_role("link", name="normal skin").click()
    expect(app.page.locator("h1")).to_have_text("Normal skin")
    app.page.go_back()
    expect(app.page.locator("h1")).to_have_text("Learn")
    expect(app.page.get_by_role("link", name="normal skin")).to_be_in_viewport()
    for nowhere, name in (("/nowhere", "Skin check"), ("/learn/constructor", "Learn"), ("/history/spot/0", "History")):
        app.go(nowhere)
        expect(app.page.locator("h1")).to_have_text(name)


def test_a_double_tap_is_one(result: App) -> None:
    page = result.page

    def twice(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).dblclick()

    twice("Show or print for a doctor")
    expect(page.locator(".report")).to_be_visible()
    back = page.get_by_role("button", name="Back", exact=True)
    back.click()
    expect(page.locator("#verdict")).to_be_visible()
    back.dispatch_event("click", {"detail": 2})  # the second tap comes after the screen has changed
    twice("Frame again")
    expect(page.locator("canvas.crop")).to_be_visible()
    twice("Back")
    expect(page.locator(".offer")).to_be_visible()
    page.get_by_role("link", name="History").dblclick()
    expect(page.locator("h1")).to_have_text("History")
    page.go_back()
    expect(page.locator(".offer")).to_be_visible()
    result.press("Continue")
    twice("Save to history")
    expect(page.locator(".photos li")).to_have_count(1)
    twice("Delete this spot")
    expect(page.locator(".empty")).to_be_visible()


def test_neither_back_nor_a_reload_loses_photo_frame_answers_or_result(result: App) -> None:
    result.page.get_by_label("It changes").check()
    result.page.go_back()
    expect(result.page.locator("h1")).to_have_text("Frame the spot")
    result.page.locator("canvas.crop").focus()
    result.page.keyboard.press("+")
    zoom = result.page.get_by_label("Zoom").input_value()
    assert float(zoom) > 1
    result.page.reload()
    expect(result.page.get_by_label("Zoom")).to_have_value(zoom)
    expect(result.page.get_by_label("It changes")).to_be_checked()
    result.page.go_back()
    expect(result.page.locator("main")).to_contain_text("Your photo is still here")
    result.press("Continue")
    expect(result.page.locator("h1")).to_have_text("Frame the spot")


def test_a_result_can_be_framed_again_and_closing_it_does_not_lead_back_into_it(
    result: App, confident: dict[str, object]
) -> None:
    sent = result.answer_with({**confident, "malignancy": {"level": "RISK_LEVEL_HIGH"}})
    result.press("Frame again")
    result.page.locator("canvas.crop").focus()
    for _ in range(5):
        result.page.keyboard.press("+")
    result.press("Analyse")
    expect(result.page.locator("#verdict")).to_have_text("High risk: this looks like skin cancer")
    assert len(sent) == 1
    result.press("Close without saving")
    expect(result.page.locator("h1")).to_have_text("Skin check")
    result.page.go_forward()
    expect(result.page.locator("h1")).to_have_text("Skin check")
    assert "Your photo is still here" not in result.words()


_LEVELS: dict[str, dict[str, object]] = {
    "low": {},
    "intermediate": {"verdict": "VERDICT_UNCERTAIN", "malignancy": {"level": "RISK_LEVEL_INTERMEDIATE"}},
    "rejected": {"verdict": "VERDICT_REJECTED", "reasons": ["REASON_NOT_SKIN"], "malignancy": None},
    "none": {"malignancy": None},
}


@pytest.mark.parametrize("level", _LEVELS)
def test_an_alarm_sign_makes_the_advice_stricter_and_is_said_to_be_the_reason(
    tidy: App, lesion: pathlib.Path, confident: dict[str, object], level: str
) -> None:
    sent = tidy.answer_with({**confident, **_LEVELS[level]})
    tidy.choose(lesion)
    tidy.page.get_by_label("It bleeds").check()
    tidy.press("Analyse")
    title = tidy.result().locator("#verdict")
    expect(title).to_have_text(_RAISED)
    assert "within the next two weeks" in tidy.words()
    expect(tidy.page.locator(".alarmed")).to_contain_text("you said: “It bleeds or doesn't heal”")
    assert "most resembles: mole" not in tidy.words() or level == "intermediate"
    assert b"bleed" not in sent[0]
    assert len(sent) == 1
    tidy.page.get_by_label("None of these").check()
    expect(title).not_to_have_text(_RAISED)
    expect(tidy.page.get_by_label("It bleeds")).not_to_be_checked()


def test_every_sign_raises_low_risk_and_none_lowers_high_risk(result: App, confident: dict[str, object]) -> None:
    for sign in ("It is new", "It changes", "It itches", "It bleeds", "I have no other"):
        result.page.get_by_label(sign).check()
        expect(result.page.locator("#verdict")).to_have_text(_RAISED)
        result.page.get_by_label(sign).uncheck()
        expect(result.page.locator("#verdict")).to_have_text(_LOW)
    result.page.get_by_label("It is new").check()
    result.answer_with({**confident, "malignancy": {"level": "RISK_LEVEL_HIGH"}})
    result.press("Frame again")
    result.press("Turn")
    result.press("Analyse")
    expect(result.page.locator("#verdict")).to_have_text("High risk: this looks like skin cancer")


def test_a_kind_of_spot_is_explained_with_its_source_and_back_leads_to_the_result(result: App) -> None:
    result.page.get_by_text("What it resembles").click()
    result.page.get_by_role("link", name="About melanoma").click()
    expect(result.page.locator("h1")).to_have_text("Melanoma, a dangerous skin cancer")
    for words in ("What it is", "What it looks like", "What doctors do"):
        assert words in result.words()
    link = result.page.get_by_role("link", name="Source:")
    assert (link.get_attribute("href") or "").startswith("https://")
    result.page.go_back()
    expect(result.page.locator("#verdict")).to_have_text(_LOW)


@pytest.mark.parametrize("language", ["en", "id"])
def test_each_kind_of_spot_is_explained_in_three_parts_and_names_its_source(tidy: App, language: str) -> None:
    if tidy.page.locator("html").get_attribute("lang") != language:
        tidy.press("ID: Bahasa Indonesia" if language == "id" else "EN: English")
    for code in ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc", "scc", "normal"):
        tidy.go(f"/learn/{code}")
        link = tidy.page.locator("main a[target=_blank]")
        expect(link).to_have_attribute("href", re.compile(r"https://(www\.nhs\.uk|dermnetnz\.org)/\S+"))
        assert len(link.inner_text().partition(": ")[2]) > 5
        assert all(len(part) > 25 for part in tidy.page.locator(".prose p").all_inner_texts())
    tidy.go("/settings")
    tidy.page.locator("#language").select_option("en")


def test_a_page_for_a_doctor_has_the_photo_the_figures_and_what_the_patient_says(result: App) -> None:
    result.page.get_by_label("It itches").check()
    result.page.get_by_label("How long have you had it?").select_option("months")
    result.press("Show or print for a doctor")
    report = result.page.locator(".report")
    words = report.inner_text()
    advice = "Have this spot seen by a dermatologist"
    for expected in (
        "melanocytic nevus (nv) 93.0", "7.0 %", "It itches or hurts", advice, "Some months", "resnet50 3", "one"
    ):  # fmt: skip
        assert expected in words
    expect(report.locator("img")).to_be_visible()
    result.page.emulate_media(media="print")
    expect(result.page.get_by_role("navigation")).to_be_hidden()
    expect(result.page.get_by_role("button", name="Print")).to_be_hidden()
    result.page.evaluate("window.print = () => { window.printed = true }")
    result.page.emulate_media(media="screen")
    result.press("Print")
    assert result.page.evaluate("window.printed")


def test_bars_are_seen_in_print_and_in_forced_colours(result: App) -> None:
    result.unfold()
    style = "getComputedStyle(document.querySelector('.fill'))"
    background = "getComputedStyle(document.body).backgroundColor"
    for medium in ({"media": "print"}, {"media": "screen", "forced_colors": "active"}):
        result.page.emulate_media(**medium)  # type: ignore[arg-type]
        assert result.page.evaluate(f"{style}.borderTopStyle") == "solid"
        assert result.page.evaluate(f"{style}.borderTopColor") != result.page.evaluate(background)
        assert float(result.page.evaluate(f"parseFloat({style}.width)")) > 50


def test_colours_text_size_and_language_are_kept(app: App) -> None:
    app.tab("Settings")
    app.page.get_by_label("Colours").select_option("dark")
    app.page.get_by_label("Text size").select_option("larger")
    app.page.locator("#language").select_option("id")
    app.page.reload()
    root = "getComputedStyle(document.documentElement)"
    assert app.page.evaluate(f"{root}.fontSize") == "34px"
    assert app.page.evaluate(f"{root}.backgroundColor") == "rgb(20, 24, 26)"
    expect(app.page.locator("h1")).to_have_text("Setelan")


def test_it_says_what_it_knows_how_good_it_is_and_under_which_licence(app: App) -> None:
    app.tab("Learn")
    words = app.words()
    for expected in (
        "Of 100 photos of cancers, about 100",
        "CC BY-NC 4.0",
        "dermatoscope",
        "black skin",
        "Normal skin",
    ):
        assert expected.lower() in words.lower()
    assert app.page.locator("section", has_text="Your privacy").locator("li").count() == 10
    app.page.route("**/v1/models", lambda route: route.abort())
    app.page.reload()
    expect(app.page.locator("main")).to_contain_text("No figures can be shown")


def test_cancers_that_were_missed_are_not_rounded_away(app: App) -> None:
    def missed(route: Route) -> None:
        found = route.fetch().json()
        for version in found["model"]["versions"]:
            version["card"]["calibration"]["ruleOut"]["sensitivity"] = {"value": 0.997, "low": 0.981, "high": 0.999}
        route.fulfill(json=found)

    app.page.route("**/v1/models/*", missed)
    app.page.reload()
    app.tab("Learn")
    told = "Of 100 photos of cancers, about 99 were not called low risk (between 98 and 100)"
    expect(app.page.locator("main")).to_contain_text(told)


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_photo_is_pasted_or_dropped(tidy: App, way: str) -> None:
    tidy.page.evaluate(
        """([data, way]) => {
          const given = new DataTransfer();
          given.items.add(new File([new Uint8Array(data)], "spot.jpg", { type: "image/jpeg" }));
          if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: given }));
          else for (const kind of ["dragover", "drop"])
            document.dispatchEvent(new DragEvent(kind, { dataTransfer: given, cancelable: true }));
        }""",
        [list(draw_lesion()), way],
    )
    expect(tidy.page.locator("canvas.crop")).to_be_visible()


def test_a_photo_that_another_app_shares_is_taken_by_the_service_worker(app: App, served: str) -> None:
    """The phone posts the form of the manifest's share_target."""
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.until("navigator.serviceWorker.controller !== null")
    for data, shown in ((draw_lesion(), "canvas.crop"), (b"no photo", "[role=alert]")):
        sender = app.context.new_page()
        sender.set_content(
            f'<form method="post" enctype="multipart/form-data" action="{served}/app/share">'
            '<input type="file" name="photo"><button>Share</button></form>'
        )
        sender.set_input_files("input", {"name": "spot", "mimeType": "image/jpeg", "buffer": data})
        sender.get_by_role("button", name="Share").click()
        expect(sender.locator(shown)).to_be_visible()
