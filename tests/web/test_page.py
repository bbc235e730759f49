"""The papers' seven functions, and what happens when something is wrong."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.web.page import App

_CASES = pathlib.Path(__file__).resolve().parents[1] / "imaging/cases"


def test_home_says_what_it_is_and_what_it_is_not(tidy: App) -> None:
    assert tidy.heading() == "Skin check"
    assert "screening aid" in tidy.words()
    assert "A diagnosis. It can miss skin cancer" in tidy.words()


def test_a_service_without_an_on_device_runtime_says_that_it_answers_with_a_connection_alone(app: App) -> None:
    app.page.route("**/device/index.json", lambda route: route.fulfill(json={"runtime": False}))
    app.tab("Settings")
    expect(app.page.locator("#device")).to_contain_text("with a connection only")
    expect(app.page.get_by_role("button", name="Prepare for offline use")).to_have_count(0)


def test_a_chosen_photo_is_analysed_and_the_result_says_everything(tidy: App, lesion: pathlib.Path) -> None:
    result = tidy.classify(lesion)
    assert "Answered by the server" in result.inner_text()
    assert "not a diagnosis" in result.inner_text()
    tidy.unfold()
    words = result.inner_text()
    for expected in ("10 of 10", "mobilenet_v3_small 1", "Answer number", "Fingerprint", "Software", "Time taken"):
        assert expected in words


def test_no_answer_waits_until_the_browser_is_idle(app: App, lesion: pathlib.Path) -> None:
    """Chromium put `toBlob` off by up to 7 s while the page showed that it was busy."""
    app.page.add_init_script("HTMLCanvasElement.prototype.toBlob = () => {}")
    app.page.reload()
    app.classify(lesion)


def test_the_level_comes_first_and_the_classes_when_asked_for(
    tidy: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    tidy.answer_with(confident)
    result = tidy.classify(lesion)
    assert result.inner_text().startswith("Low risk")
    assert "It most resembles: mole." in result.inner_text()
    assert "nevus" not in result.inner_text()
    expect(result.locator(".scores")).to_be_hidden()
    result.get_by_text("What it resembles").click()
    assert result.locator(".scores .name").all_inner_texts() == ["Mole", "Melanoma, a dangerous skin cancer"]
    shares = [float(text.split()[0]) for text in result.locator(".value").all_inner_texts()]
    assert shares == [93.0, 7.0]


def test_a_photo_is_taken_with_the_camera(app: App) -> None:
    app.press("Take a photo")
    app.until("document.querySelector('video')?.videoWidth > 0")
    app.press("Take the photo")
    expect(app.page.locator("canvas.crop")).to_be_visible()
    app.press("Analyse")
    assert "Answered by the server" in app.result().inner_text()


def test_a_picture_that_the_camera_does_not_give_is_said(app: App) -> None:
    app.page.evaluate("() => { window.createImageBitmap = () => Promise.reject(new DOMException('gone')) }")
    app.press("Take a photo")
    app.until("document.querySelector('video')?.videoWidth > 0 && !document.querySelector('.shutter').disabled")
    app.press("Take the photo")
    expect(app.page.get_by_role("alert")).to_contain_text("can't be used now")


def test_the_camera_is_given_back(tidy: App) -> None:
    tidy.press("Take a photo")
    tidy.until("document.querySelector('video')?.videoWidth > 0")
    tidy.page.evaluate("window.tracks = document.querySelector('video').srcObject.getTracks()")
    tidy.press("Back")
    tidy.until("window.tracks.every((track) => track.readyState === 'ended')")


def test_a_camera_that_was_left_before_it_played_is_given_back(app: App) -> None:
    app.page.evaluate(
        "() => { HTMLMediaElement.prototype.play = function () {"
        " window.video = this; return new Promise((_, refuse) => { window.refuse = refuse }) } }"
    )
    app.press("Take a photo")
    app.until("Boolean(window.video)")
    app.press("Back")
    app.page.evaluate("window.refuse(new DOMException('removed from the document', 'AbortError'))")
    app.until("video.srcObject.getTracks().every((track) => track.readyState === 'ended')")
    expect(app.page.locator("h1")).to_have_text("Skin check")


def test_without_permission_for_the_camera_it_says_what_to_do(
    shy_browser: Browser, served: str, tmp_path: pathlib.Path
) -> None:
    with App.opened(shy_browser, served, shots=tmp_path) as app:
        app.press("Take a photo")
        expect(app.page.get_by_role("alert")).to_contain_text("may not be used")


def test_closing_saves_nothing(tidy: App, lesion: pathlib.Path) -> None:
    tidy.classify(lesion)
    tidy.press("Close without saving")
    tidy.tab("History")
    expect(tidy.page.locator("main")).to_contain_text("Nothing saved yet")


def test_nothing_but_the_framed_square_leaves_the_device(
    tidy: App, confident: dict[str, object], tmp_path: pathlib.Path
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    photo = tmp_path / "tagged.jpg"
    Image.radial_gradient("L").convert("RGB").resize((800, 600)).save(photo, exif=exif, comment=b"SecretPlace")
    sent = tidy.answer_with(confident)
    tidy.classify(photo)
    assert b"SecretCamera" in photo.read_bytes()
    assert b"Secret" not in sent[0]
    image = Image.open(io.BytesIO(sent[0]))
    assert image.size == (600, 600)
    assert not image.getexif()


def test_a_phones_photo_is_sent_in_the_colours_of_its_profile(tidy: App, confident: dict[str, object]) -> None:
    """iPhones write Display P3; what is sent has no profile, so it has to be sRGB."""
    sent = tidy.answer_with(confident)
    for name in ("p3", "srgb"):
        tidy.classify(_CASES / f"{name}.jpg")
        tidy.press("Close without saving")
    p3, srgb = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in sent)
    assert np.abs(p3 - srgb).mean() < 2  # 4.3 with the profile ignored


def test_the_photo_is_framed_and_turned_before_it_is_sent(
    tidy: App, confident: dict[str, object], tmp_path: pathlib.Path
) -> None:
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste("black", (0, 0, 400, 200))  # black above
    picture.save(tmp_path / "halves.png")
    sent = tidy.answer_with(confident)
    tidy.choose(tmp_path / "halves.png")
    tidy.press("Turn")
    tidy.press("Analyse")
    tidy.result()
    turned = Image.open(io.BytesIO(sent[0])).convert("L")
    assert turned.getpixel((30, 200)) > 200  # a quarter clockwise: black on the right
    assert turned.getpixel((370, 200)) < 50


def test_the_frame_is_moved_with_the_keyboard(tidy: App, confident: dict[str, object], tmp_path: pathlib.Path) -> None:
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste("black", (0, 0, 100, 400))
    picture.save(tmp_path / "edge.png")
    sent = tidy.answer_with(confident)
    tidy.choose(tmp_path / "edge.png")
    tidy.page.locator("canvas.crop").focus()
    for key in ["+"] * 10 + ["ArrowLeft"] * 40:
        tidy.page.keyboard.press(key)
    tidy.press("Analyse")
    tidy.result()
    image = Image.open(io.BytesIO(sent[0])).convert("L")
    assert image.width < 150
    assert image.getpixel((image.width // 2, image.height // 2)) < 50


@pytest.mark.parametrize(("name", "data"), [("notes.jpg", b"not a photo"), ("empty.png", b""), ("cut.jpg", None)])
def test_a_wrong_file_is_named_as_such(
    tidy: App, lesion: pathlib.Path, tmp_path: pathlib.Path, name: str, data: bytes | None
) -> None:
    path = tmp_path / name
    path.write_bytes(lesion.read_bytes()[:100] if data is None else data)
    tidy.choose(path)
    expect(tidy.page.get_by_role("alert")).to_contain_text("can't be read as a photo")


def test_a_picture_that_is_too_small_is_refused(tidy: App, tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    tidy.choose(tmp_path / "small.png")
    expect(tidy.page.get_by_role("alert")).to_contain_text("too small")


def test_a_lost_connection_keeps_the_photo_and_can_be_tried_again(tidy: App, lesion: pathlib.Path) -> None:
    tidy.page.route("**/v1/models/*:classify*", lambda route: route.abort("connectionreset"))
    tidy.choose(lesion)
    tidy.press("Analyse")
    expect(tidy.page.get_by_role("alert")).to_contain_text("connection was lost")
    tidy.page.unroute("**/v1/models/*:classify*")
    tidy.press("Try again")
    assert "Answered by the server" in tidy.result().inner_text()


@pytest.mark.parametrize(
    ("status", "words"), [(429, "busy"), (504, "in time"), (400, "can't be read"), (500, "can't answer now")]
)
def test_what_the_server_refuses_is_said_in_plain_words(
    tidy: App, lesion: pathlib.Path, status: int, words: str
) -> None:
    tidy.answer_with({"code": 3, "message": "words for operators", "details": []}, status=status)
    tidy.choose(lesion)
    tidy.press("Analyse")
    expect(tidy.page.get_by_role("alert")).to_contain_text(words)
    assert "operators" not in tidy.words()
    assert tidy.page.get_by_role("button", name="Try again").is_visible()


def test_a_key_is_asked_for_and_used(app: App, lesion: pathlib.Path, confident: dict[str, object]) -> None:
    app.answer_with({"code": 16, "message": "send a key", "details": []}, status=401)
    app.choose(lesion)
    app.press("Analyse")
    app.page.get_by_label("Access key").fill("my-key")
    app.page.unroute("**/v1/models/*:classify*")
    with app.page.expect_request("**/v1/models/*:classify*") as request:
        app.press("Use this key")
    assert request.value.headers["x-api-key"] == "my-key"
    app.result()


def test_it_speaks_indonesian_and_remembers_it(
    browser: Browser, served: str, lesion: pathlib.Path, confident: dict[str, object], tmp_path: pathlib.Path
) -> None:
    with App.opened(browser, served, shots=tmp_path) as app:
        # A phone in Javanese, as Indonesians have them.
        app.page.add_init_script("Object.defineProperty(navigator, 'languages', { value: ['jv-ID', 'id-ID', 'en'] })")
        app.page.reload()
        app.page.wait_for_selector("#app[data-service]")
        assert app.heading() == "Periksa kulit"
        assert app.page.locator("html").get_attribute("lang") == "id"
        app.answer_with(confident)
        app.choose(lesion)
        app.press("Periksa foto")
        assert app.result().inner_text().startswith("Risiko rendah")
        assert "Paling mirip: tahi lalat." in app.words()
        app.page.get_by_role("button", name="English").click()
        expect(app.page.locator("h1")).to_have_text("Result")
        assert app.result().inner_text().startswith("Low risk")
        app.page.reload()
        assert app.result().inner_text().startswith("Low risk")


def test_each_screen_is_reached_with_the_keyboard_alone(app: App) -> None:
    app.page.keyboard.press("Tab")  # from the heading, where the focus is, to the language
    app.page.keyboard.press("Tab")
    assert app.page.evaluate("document.activeElement.textContent") == "Take a photo"
    app.page.keyboard.press("Enter")
    app.page.wait_for_selector("video")
    assert app.page.evaluate("document.activeElement.tagName") == "H1"


def test_the_skip_link_skips_and_stays(tidy: App, lesion: pathlib.Path) -> None:
    tidy.choose(lesion)
    tidy.page.locator(".skip").focus()
    tidy.page.keyboard.press("Enter")
    assert tidy.page.evaluate("document.activeElement.id") == "main"
    assert tidy.heading() == "Frame the spot"


def test_it_is_small_installable_and_has_targets_that_a_thumb_hits(app: App, served: str) -> None:
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    sizes = app.page.evaluate("performance.getEntriesByType('resource').map((one) => [one.name, one.decodedBodySize])")
    assert any(name.endswith("/app/app.js") for name, _ in sizes)
    assert sum(size for _, size in sizes) < 150_000
    manifest = app.page.evaluate("fetch('/app/manifest.webmanifest').then((answer) => answer.json())")
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}
    assert manifest["display"] == "standalone"
    assert manifest["share_target"]["action"].startswith(manifest["scope"])
    viewport = app.page.locator("meta[name=viewport]").get_attribute("content") or ""
    assert "width=device-width" in viewport
    assert not {"user-scalable", "maximum-scale"} & set(viewport.replace("=", " ").split())
    assert app.page.locator("meta[name=description]").get_attribute("content")
    assert app.page.locator("meta[name=theme-color]").get_attribute("content")
    assert app.page.title()
    small = "[...document.querySelectorAll('button, nav a, select, .chip')].map((one) => one.getBoundingClientRect())"
    assert app.page.evaluate(f"{small}.every(({{ height, width }}) => height === 0 || (height >= 44 && width >= 44))")


def test_a_network_that_leads_nowhere_is_no_connection(app: App) -> None:
    app.page.route("**/v1/models", lambda route: route.abort("addressunreachable"))
    app.page.reload()
    expect(app.page.get_by_role("status").first).to_contain_text("No connection")
    assert app.page.evaluate("navigator.onLine")
    app.page.unroute("**/v1/models")
    app.tab("History")
    app.tab("Check")
    expect(app.page.locator("#app")).to_have_attribute("data-service", "reached")


def test_the_page_opens_again_without_a_network(app: App) -> None:
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.until("navigator.serviceWorker.controller !== null")
    app.context.set_offline(True)
    app.page.reload()
    expect(app.page.get_by_role("status").first).to_contain_text("No connection")
    assert app.page.get_by_role("button", name="Take a photo").is_visible()
