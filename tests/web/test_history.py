"""The history: what a person does with the spots that were saved."""

import json
import pathlib
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.web.page import App

# Whether the history, the database of the page, has such notes of a spot.
_KEPT_NOTES = """new Promise((resolve) => {{
    indexedDB.open("dermserve").onsuccess = ({{ target: {{ result: db }} }}) => {{
        db.transaction("spots").objectStore("spots").getAll().onsuccess = (event) => {{
            db.close();
            resolve(event.target.result.some(({{ notes }}) => notes === "{}"));
        }};
    }};
}})"""


def _saved(result: App) -> App:
    result.press("Save to history")
    result.page.wait_for_selector(".photos")
    return result


def test_a_spot_is_named_placed_noted_and_photographed_again(result: App, lesion: pathlib.Path) -> None:
    page = _saved(result).page
    chromium = result.context.new_cdp_session(page)
    chromium.send("Emulation.setTimezoneOverride", {"timezoneId": "America/Los_Angeles"})  # where days begin later
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
    for words in ("Left shoulder", "2 photos", "upper back", "due since 2 Jan 2020", "Low risk"):
        expect(row).to_contain_text(words)
    row.click(position={"x": 5, "y": 5})
    page.locator(".photos a").first.click()
    assert "Answered by the server" in result.result().inner_text()


def test_a_spot_to_save_under_is_asked_for_where_the_answer_can_be_saved(
    result: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    _saved(result)
    for verdict, count in (("REJECTED", 0), ("CONFIDENT", 1)):
        result.answer_with({**confident, "verdict": f"VERDICT_{verdict}"})
        result.tab("Check")
        result.classify(lesion)
        expect(result.page.get_by_label("Save under")).to_have_count(count)
        result.press("Close without saving")


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
    assert json.loads(file.read_text())["photos"][0]["picture"].startswith("data:image/jpeg")
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


def test_a_history_that_cannot_be_written_is_said(result: App) -> None:
    page = _saved(result).page
    result.tab("History")
    # In place of a text of over 512 MB, which Chromium's JSON.stringify refuses.
    page.evaluate("() => { FileReader.prototype.readAsDataURL = () => { throw new RangeError('too long') } }")
    result.press("Export")
    expect(page.locator(".toast")).to_contain_text("too large for this browser")


_CHANGES: list[tuple[str, Any]] = [
    ("format", "another"),
    ("spots", {}),
    ("spots", []),
    ("spots.0", None),
    ("spots.0.id", "a/b"),
    ("spots.0.name", ""),
    ("spots.0.notes", 5),
    ("spots.0.again", "tomorrow"),
    ("spots.0.place", "arm"),
    ("spots.0.place", {"side": "front", "region": "constructor", "x": 1, "y": 1}),
    ("photos", "none"),
    ("photos.0.spot", "nowhere"),
    ("photos.0.time", "noon"),
    ("photos.0.picture", "data:text/html;base64,AAAA"),
    ("photos.0.questions", None),
    ("photos.0.questions.signs", ["constructor"]),
    ("photos.0.questions.since", "ages"),
    ("photos.0.answer", None),
    ("photos.0.answer.level", "constructor"),
    ("photos.0.answer.risk", "high"),
    ("photos.0.answer.weightsDigest", None),
    ("photos.0.answer.reasons", [{}]),
    ("photos.0.answer.scores", [None]),
    ("photos.0.answer.scores.0.probability", "1"),
]


# Chooses one file after another, and gives what the page says of each.
_IMPORT_EACH = """async (texts) => {
  const input = document.getElementById("import"), toast = document.getElementById("toast"), said = [];
  for (const text of texts) {
    toast.replaceChildren();
    const chosen = new DataTransfer();
    chosen.items.add(new File([text], "a.json", { type: "application/json" }));
    input.files = chosen.files;
    input.dispatchEvent(new Event("change"));
    while (!toast.firstChild) await new Promise((resolve) => setTimeout(resolve));
    said.push(toast.textContent);
  }
  return said;
}"""


def test_a_file_that_is_no_history_changes_nothing(result: App, tmp_path: pathlib.Path) -> None:
    page = _saved(result).page
    result.tab("History")
    with page.expect_download() as download:
        result.press("Export")
    exported = pathlib.Path(download.value.path()).read_text()
    result.press("Delete all")
    expect(page.locator(".toast")).to_contain_text("Deleted")
    wrong = ["", "not JSON", "null", "[]", "{}", *(_changed(exported, where, to) for where, to in _CHANGES)]
    said = page.evaluate(_IMPORT_EACH, wrong)
    assert len(said) == len(wrong)
    assert all("not a history that was exported here" in words for words in said)
    expect(page.locator("main")).to_contain_text("Nothing saved yet")
    page.set_input_files("#import", {"name": "a.json", "mimeType": "", "buffer": exported.encode()})
    expect(page.locator(".entries li")).to_have_count(1)


def _changed(text: str, where: str, to: Any) -> str:
    """Change one value of a file."""
    found = json.loads(text)
    *way, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    inner = found
    for step in way:
        inner = inner[step]
    inner[last] = to
    return json.dumps(found)


def test_what_is_typed_is_kept_though_one_goes_back_or_reloads_in_the_middle(result: App) -> None:
    page = _saved(result).page
    page.get_by_label("Name").fill("Left arm")
    page.get_by_label("Notes").fill("half a")
    page.go_back()
    page.go_forward()
    expect(page.locator("h1")).to_have_text("Left arm")
    expect(page.get_by_label("Notes")).to_have_value("half a")
    page.get_by_label("Notes").fill("half a sentence")
    result.until(_KEPT_NOTES.format("half a sentence"))
    page.reload()
    expect(page.get_by_label("Notes")).to_have_value("half a sentence")


def test_what_is_typed_while_another_tabs_change_is_read_stays(result: App) -> None:
    second = result.context.new_page()
    _saved(result)
    second.goto(result.page.url)
    result.hold_database()
    second.get_by_label("Notes").fill("typed in one")
    result.until("window.held.length === 1")
    result.page.get_by_label("Name").fill("Named in the other")
    result.until("window.held.length === 2")
    result.page.evaluate("release()")
    expect(second.locator("h1")).to_have_text("Spot 1")  # it is typing, too
    second.locator("h1").click()
    expect(second.locator("h1")).to_have_text("Named in the other")
    expect(result.page.get_by_label("Name")).to_have_value("Named in the other")
    result.page.locator("h1").click()
    expect(result.page.get_by_label("Notes")).to_have_value("typed in one")
    expect(result.page.locator("h1")).to_have_text("Named in the other")


def test_two_tabs_are_in_step(result: App) -> None:
    second = result.context.new_page()
    second.goto(f"{result.page.url.partition('#')[0]}#/history")
    expect(second.locator("main")).to_contain_text("Nothing saved yet")
    _saved(result)
    expect(second.locator(".entries li")).to_have_count(1)
    second.locator(".entries a").click()
    second.get_by_label("Notes").fill("typed in one")
    result.page.get_by_label("Name").fill("Named in the other")
    result.page.locator("h1").click()
    second.locator("h1").click()  # leaves the notes, which are kept then
    expect(result.page.get_by_label("Notes")).to_have_value("typed in one")
    expect(result.page.locator("h1")).to_have_text("Named in the other")
    second.go_back()
    expect(second.locator(".entries")).to_contain_text("Named in the other")


def test_a_language_chosen_in_one_tab_is_that_of_the_other(app: App) -> None:
    second = app.context.new_page()
    second.goto(f"{app.page.url.partition('#')[0]}#/history")
    expect(second.locator("h1")).to_have_text("History")
    app.tab("Settings")
    app.page.locator("#language").select_option("id")
    expect(second.locator("h1")).to_have_text("Riwayat")
