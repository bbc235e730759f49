"""What a person does with the page: one test a task."""

import json
import pathlib
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from dermserve.local.picture import draw_lesion
from tests.web.page import App

_LOW = "Low risk: no sign of skin cancer was found"
_RAISED = "Have this spot seen by a dermatologist"


@pytest.fixture
def result(app: App, lesion: pathlib.Path, confident: dict[str, object]) -> App:
    """The page, showing the result of a harmless spot."""
    app.answer_with(confident)
    app.classify(lesion)
    return app


def _saved(result: App) -> App:
    result.press("Save to history")
    result.page.wait_for_selector(".photos")
    return result


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
    for nowhere, name in (("/nowhere", "Skin check"), ("/learn/constructor", "Learn"), ("/history/spot/0", "History")):
        app.go(nowhere)
        expect(app.page.locator("h1")).to_have_text(name)


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
    app: App, lesion: pathlib.Path, confident: dict[str, object], level: str
) -> None:
    sent = app.answer_with({**confident, **_LEVELS[level]})
    app.choose(lesion)
    app.page.get_by_label("It bleeds").check()
    app.press("Analyse")
    title = app.result().locator("#verdict")
    expect(title).to_have_text(_RAISED)
    assert "within the next two weeks" in app.words()
    expect(app.page.locator(".alarmed")).to_contain_text("you said: “It bleeds or doesn't heal”")
    assert "most resembles: mole" not in app.words() or level == "intermediate"
    assert b"bleed" not in sent[0]
    assert len(sent) == 1
    app.page.get_by_label("None of these").check()
    expect(title).not_to_have_text(_RAISED)
    expect(app.page.get_by_label("It bleeds")).not_to_be_checked()


@pytest.mark.parametrize("sign", ["It is new", "It changes", "It itches", "It bleeds", "I have no other"])
def test_every_sign_raises_low_risk_and_none_lowers_high_risk(
    result: App, confident: dict[str, object], sign: str
) -> None:
    result.page.get_by_label(sign).check()
    expect(result.page.locator("#verdict")).to_have_text(_RAISED)
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


def test_a_page_for_a_doctor_has_the_photo_the_figures_and_what_the_patient_says(result: App) -> None:
    result.page.get_by_label("It itches").check()
    result.page.get_by_label("How long have you had it?").select_option("months")
    result.press("Show or print for a doctor")
    report = result.page.locator(".report")
    words = report.inner_text()
    for expected in ("melanocytic nevus (nv) 93.0", "7.0 %", "It itches or hurts", "Some months", "resnet50 3", "one"):
        assert expected in words
    expect(report.locator("img")).to_be_visible()
    result.page.emulate_media(media="print")
    expect(result.page.get_by_role("navigation")).to_be_hidden()
    expect(result.page.get_by_role("button", name="Print")).to_be_hidden()
    result.page.evaluate("window.print = () => { window.printed = true }")
    result.page.emulate_media(media="screen")
    result.press("Print")
    assert result.page.evaluate("window.printed")


@pytest.mark.parametrize("medium", ["print", "forced colours"])
def test_bars_are_seen_in_print_and_in_forced_colours(result: App, medium: str) -> None:
    result.unfold()
    if medium == "print":
        result.page.emulate_media(media="print")
    else:
        result.page.emulate_media(forced_colors="active")
    style = "getComputedStyle(document.querySelector('.fill'))"
    assert result.page.evaluate(f"{style}.borderTopStyle") == "solid"
    background = "getComputedStyle(document.body).backgroundColor"
    assert result.page.evaluate(f"{style}.borderTopColor") != result.page.evaluate(background)
    assert float(result.page.evaluate(f"parseFloat({style}.width)")) > 50


def test_a_spot_is_named_placed_noted_and_photographed_again(result: App, lesion: pathlib.Path) -> None:
    page = _saved(result).page
    page.get_by_label("Name").fill("Left shoulder")
    page.get_by_label("Notes").fill("Doctor: watch it")
    page.get_by_label("Look at it again on").fill("2020-01-02")
    page.get_by_role("img", name="Back of the body").click(position={"x": 70, "y": 70})
    expect(page.get_by_label("Where on the body")).to_have_value("back upperBack")
    with page.expect_download() as download:
        result.press("Put it into the calendar")
    calendar = pathlib.Path(download.value.path()).read_text()
    assert "DTSTART;VALUE=DATE:20200102" in calendar
    assert "Left shoulder" in calendar
    result.press("Photograph it again")
    result.until("document.querySelector('video')?.videoWidth > 0 && !document.querySelector('.shutter').disabled")
    result.press("Take the photo")
    result.press("Analyse")
    result.result()
    result.press("Save to history")
    expect(page.locator(".photos li")).to_have_count(2)
    expect(page.locator(".compare img")).to_have_count(2)
    page.reload()
    expect(page.locator("h1")).to_have_text("Left shoulder")
    expect(page.get_by_label("Notes")).to_have_value("Doctor: watch it")
    result.tab("History")
    row = page.locator(".entries a")
    for words in ("Left shoulder", "2 photos", "upper back", "due since", "Low risk"):
        expect(row).to_contain_text(words)
    row.click(position={"x": 5, "y": 5})
    page.locator(".photos a").first.click()
    assert "Answered by the server" in result.result().inner_text()


@pytest.mark.parametrize("what", ["photo", "spot", "all"])
def test_what_is_deleted_can_be_brought_back(result: App, what: str) -> None:
    page = _saved(result).page
    if what == "photo":
        page.locator(".photos a").click()
        result.press("Delete")
        expect(page.locator(".photos li")).to_have_count(0)
    elif what == "spot":
        result.press("Delete this spot")
        expect(page.locator("main")).to_contain_text("Nothing saved yet")
    else:
        result.tab("History")
        result.press("Delete all")
        expect(page.locator("main")).to_contain_text("Nothing saved yet")
    result.press("Undo")
    result.tab("History")
    expect(page.locator(".entries")).to_contain_text("1 photo")


def test_the_history_is_one_file_that_another_browser_reads(
    result: App, browser: Browser, served: str, tmp_path: pathlib.Path
) -> None:
    page = _saved(result).page
    page.get_by_label("Notes").fill("mine")
    result.tab("History")
    with page.expect_download() as download:
        result.press("Export")
    file = tmp_path / "history.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["photos"][0]["picture"].startswith("data:image/")
    with App.opened(browser, served, shots=tmp_path) as other:
        other.tab("History")
        for _ in range(2):  # a second time changes nothing
            other.page.set_input_files("#import", file)
            other.page.wait_for_selector(".toast p")
            other.press("Dismiss")
        expect(other.page.locator(".entries li")).to_have_count(1)
        other.page.locator(".entries a").click()
        expect(other.page.get_by_label("Notes")).to_have_value("mine")
        assert (
            other.page.locator(".photos img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
        )


_EXPORTED: dict[str, Any] = {"format": "dermserve history 1", "spots": [], "photos": []}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "null",
        "[]",
        json.dumps({**_EXPORTED, "format": "another"}),
        json.dumps({**_EXPORTED, "spots": [{"id": "a"}]}),
        json.dumps({**_EXPORTED, "photos": [{"id": "a", "spot": "nowhere", "time": "2026-01-01", "picture": "x"}]}),
        json.dumps({**_EXPORTED, "photos": [{"picture": "data:text/html;base64,AAAA"}]}),
    ],
)
def test_a_file_that_is_no_history_changes_nothing(app: App, tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "some.json").write_text(text)
    app.tab("History")
    app.page.set_input_files("#import", tmp_path / "some.json")
    expect(app.page.locator(".toast")).to_contain_text("not a history that was exported here")
    expect(app.page.locator("main")).to_contain_text("Nothing saved yet")


def test_two_tabs_are_in_step(result: App) -> None:
    second = result.context.new_page()
    second.goto(f"{result.page.url.partition('#')[0]}#/history")
    expect(second.locator("main")).to_contain_text("Nothing saved yet")
    _saved(result)
    expect(second.locator(".entries li")).to_have_count(1)
    second.locator(".entries a").click()
    second.get_by_label("Notes").fill("typed in one")
    result.page.get_by_label("Name").fill("Named in the other")
    result.page.keyboard.press("Tab")
    second.get_by_label("Name").focus()  # leaves the notes, which are kept then
    expect(result.page.get_by_label("Notes")).to_have_value("typed in one")
    expect(result.page.locator("h1")).to_have_text("Named in the other")
    second.go_back()
    expect(second.locator(".entries")).to_contain_text("Named in the other")
    result.tab("Settings")
    result.page.locator("#language").select_option("id")
    expect(second.locator("h1")).to_have_text("Riwayat")


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


@pytest.mark.parametrize("way", ["share", "paste", "drop"])
def test_a_photo_comes_in_by_other_ways(app: App, way: str) -> None:
    data = list(draw_lesion())
    if way == "share":
        app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        app.until("navigator.serviceWorker.controller !== null")
        app.page.evaluate(
            """async (data) => {
              const form = new FormData();
              form.append("photo", new File([new Uint8Array(data)], "spot.jpg", { type: "image/jpeg" }));
              await fetch("/app/share", { method: "POST", body: form });
            }""",
            data,
        )
        app.go("/check/shared")
    else:
        app.page.evaluate(
            """([data, way]) => {
              const given = new DataTransfer();
              given.items.add(new File([new Uint8Array(data)], "spot.jpg", { type: "image/jpeg" }));
              if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: given }));
              else for (const kind of ["dragover", "drop"])
                document.dispatchEvent(new DragEvent(kind, { dataTransfer: given, cancelable: true }));
            }""",
            [data, way],
        )
    expect(app.page.locator("canvas.crop")).to_be_visible()
