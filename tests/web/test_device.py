"""Answers on the device: they are the server's, they need no network, and the page says who answered."""

import base64
import pathlib

import pytest
import requests
from playwright.sync_api import expect

from dermserve.edge.files import ON_DEVICE
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.local.picture import draw_lesion
from tests.web.page import App

pytestmark = pytest.mark.usefixtures("runtime")

_ANSWER = """async ([photo, views]) => {
  const bitmap = await createImageBitmap(await (await fetch("data:image/jpeg;base64," + photo)).blob());
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(bitmap, (side - bitmap.width) / 2, (side - bitmap.height) / 2);
  const index = await (await fetch("/device/index.json")).json();
  const model = (await (await fetch("/v1/models/" + index.model)).json()).model;
  const card = model.versions.find((one) => one.version === index.version).card;
  const url = `/device/${index.model}/${index.version}/model.tflite`;
  const device = await import("/app/device.js");
  const answer = await device.answer(canvas, url, card, index.version, views);
  return Object.fromEntries(answer.scores.map((one) => [one.code, one.probability]));
}"""


def _both(app: App, photo: bytes, views: str) -> tuple[dict[str, float], dict[str, float]]:
    url = app.page.url.partition("/app/")[0]
    answer = requests.post(
        f"{url}/v1/models/{ON_DEVICE}:classify?tta={views}",
        photo,
        headers={"content-type": "image/jpeg"},
        timeout=60,
    ).json()
    server = {score["code"]: score["probability"] for score in answer["classes"]}
    # The page's own rules forbid it to fetch data: addresses.
    device = app.page.evaluate(
        _ANSWER.replace('await (await fetch("data:image/jpeg;base64," + photo)).blob()', _BLOB),
        [base64.b64encode(photo).decode(), views],
    )
    return server, device


_BLOB = "new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))])"


def _assert_agree(app: App, photos: list[bytes], views: str) -> None:
    """What is left is the model's weights, rounded to float16 on the device, and the pixels beside the centred square.

    The server's resizing looks at those; the page cuts the square out first. Both decode JPEG to the same pixels.
    """
    same, apart = 0, []
    for photo in photos:
        server, device = _both(app, photo, views)
        same += max(server, key=server.__getitem__) == max(device, key=device.__getitem__)
        apart.append(max(abs(server[code] - device[code]) for code in server))
    assert same >= 0.97 * len(photos)
    assert max(apart) <= 0.03


@pytest.mark.parametrize("views", ["NONE", "FULL"])
def test_the_device_says_what_the_server_says_of_drawn_pictures(app: App, views: str) -> None:
    _assert_agree(app, [draw_lesion(seed=seed) for seed in range(6)], views)


@pytest.mark.shared_data
def test_the_device_says_what_the_server_says_of_real_photos(app: App, shared: pathlib.Path) -> None:
    photos = sorted((shared / "data").rglob("*.jpg"))[::290][:40]
    assert photos
    _assert_agree(app, [photo.read_bytes() for photo in photos], "NONE")


def test_the_views_of_the_device_are_the_servers(app: App) -> None:
    pixels = decode(draw_lesion(), height=224, width=224).pixels
    expected = make_views(pixels, STANDARD_VIEWS)
    found = app.page.evaluate(
        """async ([pixels, names]) => {
          const { view } = await import("/app/device.js");
          const data = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
          return names.map((name) => Array.from(view(data, 224, name), (value) => String.fromCharCode(value)).join(""));
        }""",
        [base64.b64encode(pixels.tobytes()).decode(), list(STANDARD_VIEWS)],
    )
    for name, want, got in zip(STANDARD_VIEWS, expected, found, strict=True):
        assert want.tobytes() == got.encode("latin-1"), name


def test_without_a_network_the_device_answers_and_the_page_says_so(app: App, lesion: pathlib.Path) -> None:
    app.press("Prepare for offline use")
    app.page.locator("#prepared").wait_for(timeout=60_000)
    app.until("navigator.serviceWorker.controller !== null")
    app.context.set_offline(True)
    app.page.reload()
    expect(app.page.locator(".banner")).to_contain_text("looked at on this device")
    words = app.classify(lesion).inner_text()
    assert "Answered on this device, without a network" in words
    assert "10 of 10" in words
    assert "isn't checked whether the photo shows skin" in words
    app.shoot("phone-offline")
    app.press("Save to history")
    expect(app.page.locator(".entry")).to_have_count(1)


def test_where_the_network_leads_nowhere_the_device_answers(app: App, lesion: pathlib.Path) -> None:
    app.press("Prepare for offline use")
    app.page.locator("#prepared").wait_for(timeout=60_000)
    app.page.route("**/v1/**", lambda route: route.abort("addressunreachable"))
    app.page.reload()
    expect(app.page.locator(".banner")).to_contain_text("looked at on this device")
    assert "Answered on this device" in app.classify(lesion).inner_text()


def test_when_the_connection_is_lost_the_device_can_answer(app: App, lesion: pathlib.Path) -> None:
    app.press("Prepare for offline use")
    app.page.locator("#prepared").wait_for(timeout=60_000)
    app.page.route("**/v1/models/*:classify*", lambda route: route.abort("connectionreset"))
    app.choose(lesion)
    app.press("Analyse")
    app.press("Answer on this device")
    assert "Answered on this device" in app.result().inner_text()
