"""What networks, browsers and phones do to a page: each is said, with the way out, and nothing is lost."""

import pathlib

import pytest
from playwright.sync_api import Route, expect

from tests.web.page import App

_HTML = "<!doctype html><title>Wi-Fi</title>Sign in"
_BLOCKED = {
    "indexedDB": "Object.defineProperty(window, 'indexedDB',"
    " { get() { throw new DOMException('no', 'SecurityError') } })",
    "localStorage": "for (const name of ['localStorage', 'sessionStorage'])"
    " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError') } })",
    "quota": "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') };"
    "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }",
}


def _changed(app: App, script: str) -> None:
    """Open the page again in a browser that is so."""
    app.page.add_init_script(script)
    app.page.reload()
    app.page.wait_for_selector("h1")


@pytest.mark.parametrize("what", _BLOCKED)
def test_where_the_browser_stores_nothing_that_is_said_and_the_rest_works(
    app: App, lesion: pathlib.Path, confident: dict[str, object], what: str
) -> None:
    _changed(app, _BLOCKED[what])
    app.answer_with(confident)
    app.classify(lesion)
    app.press("Save to history")
    if what == "localStorage":
        expect(app.page.locator(".photos li")).to_have_count(1)
    else:
        expect(app.page.get_by_role("alert")).to_contain_text("Nothing was saved")
        expect(app.page.locator("#verdict")).to_be_visible()
    app.tab("Settings")
    app.page.get_by_label("Text size").select_option("large")
    assert app.page.evaluate("document.documentElement.dataset.size") == "large"


def test_without_https_results_are_saved_and_the_camera_is_explained(
    app: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    _changed(
        app,
        "delete Crypto.prototype.randomUUID; delete Navigator.prototype.mediaDevices;"
        "delete Navigator.prototype.serviceWorker; delete Navigator.prototype.storage; delete window.caches;"
        "Object.defineProperty(window, 'isSecureContext', { value: false })",
    )
    app.answer_with(confident)
    app.classify(lesion)
    app.press("Save to history")
    expect(app.page.locator(".photos li")).to_have_count(1)
    app.press("Photograph it again")
    expect(app.page.get_by_role("alert")).to_contain_text("secure pages alone")
    expect(app.page.get_by_role("button", name="Use the phone's camera")).to_be_visible()
    assert app.page.locator("input[capture=environment]").count() == 1
    app.page.set_input_files("#captured", lesion)
    expect(app.page.locator("canvas.crop")).to_be_visible()


_CHECK = ("/check/camera", "/check/shared", "/check/frame", "/check/result", "/check/report")
_ADDRESSES = ("/", *_CHECK, "/history", "/history/spot/a", "/history/report/a", "/learn", "/learn/mel", "/settings")


def test_every_address_opens_in_a_browser_that_allows_nothing_and_hears_nothing(app: App) -> None:
    _changed(
        app,
        f"{_BLOCKED['indexedDB']}; {_BLOCKED['localStorage']}; delete Navigator.prototype.mediaDevices;"
        "delete Navigator.prototype.storage; delete window.caches;"
        "Object.defineProperty(window, 'isSecureContext', { value: false })",
    )
    app.page.route("**/v1/**", lambda route: None)  # a network that swallows everything
    app.page.reload()
    for address in _ADDRESSES:
        app.page.evaluate("document.querySelector('h1').textContent = ''")
        app.go(address)
        expect(app.page.locator("h1")).not_to_be_empty()


@pytest.mark.parametrize("path", ["**/v1/models", "**/v1/models/*:classify*", "**/device/index.json"])
def test_a_web_page_in_place_of_an_answer_is_understood(app: App, lesion: pathlib.Path, path: str) -> None:
    app.page.route(path, lambda route: route.fulfill(content_type="text/html", body=_HTML))
    app.page.reload()
    app.page.wait_for_selector("#app[data-service]")
    if path == "**/device/index.json":
        app.tab("Settings")
        expect(app.page.locator("#device")).to_contain_text("with a connection only")
        return
    app.choose(lesion)
    app.press("Analyse")
    expect(app.page.get_by_role("alert")).to_contain_text("sign-in page of this Wi-Fi")
    app.page.unroute(path)
    app.press("Try again")
    app.result()


def test_a_limit_on_bursts_is_waited_out_and_a_longer_one_is_said(
    tidy: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    waits = ["1", "40"]

    def reply(route: Route) -> None:
        if waits:
            route.fulfill(status=429, headers={"retry-after": waits.pop(0)}, json={"code": 8})
        else:
            route.fulfill(json=confident)

    tidy.page.route("**/v1/models/*:classify*", reply)
    tidy.choose(lesion)
    tidy.press("Analyse")
    expect(tidy.page.get_by_role("alert")).to_contain_text("Try again in 40 seconds")
    tidy.press("Try again")
    tidy.result()


def test_a_wrong_key_is_said_to_be_wrong_and_can_be_removed(app: App) -> None:
    def reply(route: Route) -> None:
        key = route.request.headers.get("x-api-key")
        if key == "right":
            route.fulfill(json={"models": [{"name": "m"}]})
        else:
            route.fulfill(status=401, json={"code": 16, "message": "for operators"})

    app.page.route("**/v1/models", reply)
    app.page.route("**/v1/models/m", lambda route: route.fulfill(json={"model": {"name": "m"}}))
    app.page.reload()
    for wrong in ("wrong", "“right”"):
        app.page.get_by_label("Access key").fill(wrong)
        app.press("Use this key")
        expect(app.page.get_by_role("alert")).to_contain_text("This key is not accepted")
        expect(app.page.get_by_label("Access key")).to_be_empty()
    app.page.get_by_label("Access key").fill("right")
    app.press("Use this key")
    expect(app.page.get_by_label("Access key")).to_have_count(0)
    app.tab("Settings")
    app.press("Remove the key")
    app.tab("Check")
    app.page.reload()
    expect(app.page.get_by_label("Access key")).to_be_visible()
    expect(app.page.get_by_role("alert")).to_have_count(0)


def test_what_comes_late_does_not_take_the_place_of_another_screen(
    app: App, lesion: pathlib.Path, confident: dict[str, object]
) -> None:
    app.answer_with(confident)
    app.hold_database()
    app.choose(lesion)
    app.press("Analyse")
    app.until("window.held.length === 1")
    app.press("Cancel")
    app.page.evaluate("release()")
    app.answer_with({"code": 16}, status=401)
    expect(app.page.locator("h1")).to_have_text("Frame the spot")
    app.press("Turn")
    app.press("Analyse")
    app.page.get_by_label("Access key").fill("my-key")
    late: list[Route] = []
    app.page.route("**/v1/models", lambda route: late.insert(0, route))
    app.press("Use this key")
    app.tab("Learn")
    late[0].fulfill(json={"models": []})
    app.page.evaluate("fetch('/app/icon.svg').then(() => true)")  # what was answered before has been read
    expect(app.page.locator("h1")).to_have_text("Learn")


@pytest.mark.parametrize("works", [True, False])
def test_a_save_that_takes_long_leads_nobody_away_and_takes_no_other_photo(
    result: App, lesion: pathlib.Path, works: bool
) -> None:
    result.hold_database()
    result.press("Save to history")
    result.until("window.held.length === 1")
    result.tab("Check")
    result.choose(lesion)
    if not works:
        result.page.evaluate(f"() => {{ {_BLOCKED['quota']} }}")
    result.page.evaluate("release()")
    expect(result.page.locator(".toast")).to_contain_text("Saved" if works else "Nothing was saved")
    expect(result.page.locator("h1")).to_have_text("Frame the spot")
    result.press("Analyse")
    result.result()


def test_a_photo_that_finds_no_room_is_not_mistaken_for_the_one_before(app: App, lesion: pathlib.Path) -> None:
    app.choose(lesion)
    app.page.evaluate(f"() => {{ {_BLOCKED['quota']} }}")
    app.press("Back")
    app.choose(lesion)
    app.page.reload()
    expect(app.page.locator("h1")).to_have_text("Skin check")
    assert "Your photo is still here" not in app.words()


def test_heic_is_named_and_what_to_do_about_it_is_said(tidy: App, tmp_path: pathlib.Path) -> None:
    for brand, words in (
        (b"heic", "Most Compatible"),
        (b"none", "can't be read as a photo"),
        (b"mif1", "Most Compatible"),
    ):
        (tmp_path / "IMG_1.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(64))
        tidy.page.set_input_files("#file", tmp_path / "IMG_1.heic")
        expect(tidy.page.get_by_role("alert")).to_contain_text(words)


def test_a_setting_that_another_tab_changes_while_the_page_opens_leads_nowhere(app: App) -> None:
    app.page.add_init_script(
        """const listen = window.addEventListener;
        window.addEventListener = function (kind, act, ...rest) {
          listen.call(this, kind, act, ...rest);
          if (kind === "storage") queueMicrotask(() => act(new StorageEvent(kind, { key: "dermserve.theme" })));
        };"""
    )
    app.tab("Learn")
    app.page.reload()
    expect(app.page.locator("h1")).to_have_text("Learn")
    assert app.complaints == []


@pytest.mark.parametrize(("share", "words"), [(1.0, "Good: take the photo"), (0.1, "More light")])
def test_the_camera_says_what_to_do_better(app: App, share: float, words: str) -> None:
    """What the camera sees comes from a drawn picture; darkness is laid over it."""
    app.page.add_init_script(
        f"""const draw = CanvasRenderingContext2D.prototype.drawImage;
        CanvasRenderingContext2D.prototype.drawImage = function (source, ...rest) {{
          if (source instanceof HTMLVideoElement) this.filter = "brightness({share})";
          return draw.call(this, source, ...rest);
        }};"""
    )
    app.page.reload()
    app.page.wait_for_selector("#app[data-service]")
    app.press("Take a photo")
    expect(app.page.locator(".coach")).to_contain_text(words)


_TRACK = """
  MediaStreamTrack.prototype.getCapabilities = () => ({ torch: true });
  MediaStreamTrack.prototype.applyConstraints = async function ({ advanced }) {
    window.track = this;
    if (window.broken) throw new DOMException("no light", "NotSupportedError");
    window.torch = advanced[0].torch;
  };"""


def test_the_light_is_turned_on_and_off_where_the_camera_has_one(app: App) -> None:
    app.press("Take a photo")
    expect(app.page.get_by_role("button", name="Take the photo")).to_be_enabled()
    expect(app.page.get_by_role("button", name="Light")).to_have_count(0)
    _changed(app, _TRACK)
    light = app.page.get_by_role("button", name="Light")
    for on in ("true", "false"):
        light.click()
        expect(light).to_have_attribute("aria-pressed", on)
        assert app.page.evaluate("String(window.torch)") == on
    app.page.evaluate("window.broken = true")
    light.click()
    expect(light).to_have_attribute("aria-pressed", "false")
    app.page.evaluate("window.track.dispatchEvent(new Event('ended'))")
    expect(app.page.get_by_role("alert")).to_contain_text("another program may have it")


def test_offline_every_screen_opens(app: App, lesion: pathlib.Path, confident: dict[str, object]) -> None:
    app.answer_with(confident)
    app.classify(lesion)
    app.press("Save to history")
    app.page.wait_for_selector(".photos")
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.until("navigator.serviceWorker.controller !== null")
    app.context.set_offline(True)
    app.page.reload()
    expect(app.page.locator(".photos li")).to_have_count(1)
    for name in ("History", "Learn", "Settings", "Check"):
        app.tab(name)
        expect(app.page.locator("h1")).to_have_text("Skin check" if name == "Check" else name)
    app.choose(lesion)
    app.press("Analyse")
    expect(app.page.get_by_role("alert")).to_contain_text("Your photo stays here")
    app.context.set_offline(False)
    app.press("Try again")
    app.result()


def test_a_new_version_of_the_page_is_told_and_a_reload_keeps_the_photo(app: App, lesion: pathlib.Path) -> None:
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.until("navigator.serviceWorker.controller !== null")
    app.page.reload()
    app.page.wait_for_selector("#app[data-service]")
    app.choose(lesion)
    app.page.evaluate("navigator.serviceWorker.dispatchEvent(new Event('controllerchange'))")
    expect(app.page.locator(".toast")).to_contain_text("A new version of this page is ready")
    app.press("Reload")
    expect(app.page.locator("canvas.crop")).to_be_visible()
