"""Answers on the device: they are the server's, they need no network, and the page says who answered."""

import base64
import io
import json
import pathlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import requests
from google.protobuf import json_format
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, expect

from dermserve.contract import SCHEMA_VERSION
from dermserve.edge.config import ON_DEVICE
from dermserve.gateway.answer import write_answer
from dermserve.gateway.tfserving import Scores
from dermserve.imaging import STANDARD_VIEWS, Measures, decode, make_views, measure
from dermserve.v1 import card_pb2
from tests.drawing import draw_lesion
from tests.web.conftest import SHOTS
from tests.web.page import App

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "client/web/src"
RUNTIME_VERSION = json.loads((SOURCE.parent / "package.json").read_text())["devDependencies"]["@litertjs/core"]
_KEPT = "caches.keys().then((names) => names.filter((name) => name.startsWith('dermserve-device')))"
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
  return device.answer(canvas, url, card, index.version, views);
}"""


def _device(app: App, photo: bytes, views: str) -> dict[str, Any]:
    # The page's own rules forbid it to fetch data: addresses.
    script = _ANSWER.replace('await (await fetch("data:image/jpeg;base64," + photo)).blob()', _BLOB)
    answer: dict[str, Any] = app.page.evaluate(script, [base64.b64encode(photo).decode(), views])
    return answer


def _both(app: App, photo: bytes, views: str) -> tuple[dict[str, float], dict[str, float]]:
    """Ask both about a photo; of one that only the server rejects there are no classes to compare on the device."""
    url = app.page.url.partition("/app/")[0]
    answer = requests.post(
        f"{url}/v1/models/{ON_DEVICE}:classify",
        json={"image": base64.b64encode(photo).decode(), "tta": f"TTA_MODE_{views}", "includeRejectedClasses": True},
        timeout=100,
    ).json()
    server = {score["code"]: score["probability"] for score in answer["classes"]}
    device = {score["code"]: score["probability"] for score in _device(app, photo, views)["scores"]}
    return server, device


_BLOB = "new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))])"


def _assert_agree(app: App, photos: list[bytes], views: str) -> None:
    """What is left is the model's weights, rounded to float16 on the device, and the pixels beside the centred square.

    The server's resizing looks at those; the page cuts the square out first. Both decode JPEG to the same pixels.
    """
    same, apart = 0, []
    for photo in photos:
        server, device = _both(app, photo, views)
        if device:  # which has no classes of a photo that it rejects
            same += device[max(server, key=server.__getitem__)] >= max(device.values()) - 0.03  # nearer is a tie
            apart.append(max(abs(server[code] - device[code]) for code in server))
    assert len(apart) >= 0.9 * len(photos)
    assert same >= 0.97 * len(apart)
    assert max(apart) <= 0.03


@pytest.mark.parametrize("views", ["NONE", "FULL"])
def test_the_device_says_what_the_server_says_of_drawn_pictures(once: App, views: str) -> None:
    _assert_agree(once, [draw_lesion(seed=seed) for seed in range(3)], views)


@pytest.mark.shared_data
def test_the_device_says_what_the_server_says_of_real_photos(once: App, shared: pathlib.Path) -> None:
    photos = sorted((shared / "data").rglob("*.jpg"))[::290][:40]
    assert photos
    _assert_agree(once, [photo.read_bytes() for photo in photos], "NONE")


def test_the_views_of_the_device_are_the_servers(once: App) -> None:
    pixels = decode(draw_lesion(), height=224, width=224)
    expected = make_views(pixels, STANDARD_VIEWS)
    found = once.page.evaluate(
        """async ([pixels, names]) => {
          const { view } = await import("/app/device.js");
          const data = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
          return names.map((name) => Array.from(view(data, 224, name), (value) => String.fromCharCode(value)).join(""));
        }""",
        [base64.b64encode(pixels.tobytes()).decode(), list(STANDARD_VIEWS)],
    )
    for name, want, got in zip(STANDARD_VIEWS, expected, found, strict=True):
        assert want.tobytes() == got.encode("latin-1"), name


def _evaluate(app: App, script: str, argument: object) -> Any:
    return app.page.evaluate(
        f"async (given) => {{ const device = await import('/app/device.js'); {script} }}", argument
    )


def _pictures() -> Iterator[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    for colour in ((0, 0, 0), (255, 255, 255), (222, 184, 160), (250, 3, 128)):
        yield np.full((224, 224, 3), colour, np.uint8)
    yield random.integers(0, 256, (224, 224, 3), np.uint8)
    yield np.repeat(random.integers(0, 256, (224, 224, 1), np.uint8), 3, axis=2)
    for seed in range(3):
        lesion = decode(draw_lesion(seed=seed), height=224, width=224)
        yield lesion
        yield lesion // 8
        yield np.asarray(Image.fromarray(lesion).filter(ImageFilter.GaussianBlur(6)))
        yield np.roll(lesion, 50, axis=1)[:61, :61].copy()  # an odd side


def test_the_measures_of_the_device_are_the_servers(once: App) -> None:
    for pixels in _pictures():
        given = [base64.b64encode(pixels.tobytes()).decode(), len(pixels)]
        script = "return device.measure(Uint8Array.from(atob(given[0]), (c) => c.charCodeAt(0)), given[1]);"
        found = _evaluate(once, script, given)
        expected = asdict(measure(pixels))
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-4, abs=1e-4)
        assert set(found) == {limit.partition("_")[2] for limit in card_pb2.QualityLimits.DESCRIPTOR.fields_by_name}


def _card(**calibration: object) -> dict[str, Any]:
    fitted = {
        "minConfidence": 0.7,
        "maxViewStd": 0.15,
        "maxOodScore": 30.0,
        "maxScopeScore": 20.0,
        "ruleOut": {"threshold": 0.2},
        "ruleIn": {"threshold": 0.6},
        "quality": {
            "minBrightness": 40.0,
            "maxBrightness": 230.0,
            "maxGlare": 0.2,
            "minColor": 2.0,
            "minDetail": 0.3,
            "minContrast": 0.03,
            "minRedness": 10.0,
            "maxRedness": 100.0,
            "minYellowness": -0.1,
            "maxYellowness": 0.5,
        },
    }
    classes: list[dict[str, object]] = [
        {"code": "nv", "name": "melanocytic nevus", "commonName": "mole"},
        {"code": "df", "name": "dermatofibroma"},
        {"code": "mel", "name": "melanoma", "malignant": True},
        {"code": "bcc", "name": "basal cell carcinoma", "malignant": True},
    ]
    kept = {name: value for name, value in (fitted | calibration).items() if value is not None}
    return {"classes": classes, "calibration": kept, "provenance": {"training": "TRAINING_TRAINED"}}


_CARDS = [
    _card(),
    _card(maxViewStd=None, maxScopeScore=None),
    _card(quality={"minDetail": 0.3}),
    _card(ruleIn=None),
    _card(minConfidence=None, quality=None),
    _card() | {"provenance": {"training": "TRAINING_NONE"}},
    _card() | {"provenance": {}},
]


def _cases(count: int) -> Iterator[tuple[Scores, Measures]]:
    """Probabilities from sure to open, and measures about the limits of which one in a while is beyond."""
    random = np.random.default_rng(1)
    good = np.array([150, 100, 0.02, 8, 40, 0.15, 0.5, 0.2])
    spoiled = np.array([10, 100, 0.5, 0.5, 120, 0.6, 0.26, 0.01])
    for _ in range(count):
        centre = random.dirichlet(np.full(4, 0.3))
        probabilities = random.dirichlet(centre * random.choice([5, 200]) + 1e-3, size=random.integers(1, 4))
        ood = random.uniform(0, random.choice([20, 40]), len(probabilities))
        bad = random.random(len(good)) < random.choice([0, 0.2])
        values = np.where(bad, spoiled, good).astype(float)
        scores = Scores(1, probabilities.astype(np.float32), ood.astype(np.float32))
        yield scores, Measures(*map(float, values))


@pytest.mark.parametrize("card", _CARDS)
def test_the_device_judges_as_the_gateway_does(once: App, card: dict[str, Any]) -> None:
    cases = list(_cases(300))
    given = [
        [{"probabilities": s.probabilities.tolist(), "oodScore": float(s.ood_scores[0])}, asdict(m)] for s, m in cases
    ]
    found = _evaluate(once, "return given[0].map(([s, m]) => device.judge(s, m, given[1]));", [given, card])
    message = json_format.ParseDict(card, card_pb2.Card())
    verdicts = set()
    for (scores, measures), got in zip(cases, found, strict=True):
        want = json_format.MessageToDict(write_answer(scores, measures, card=message))
        level = want.get("malignancy", {}).get("level", "RISK_LEVEL_NONE")
        assert got["verdict"] == want["verdict"]
        assert got["reasons"] == want.get("reasons", [])
        assert f"RISK_LEVEL_{got['level'].upper()}" == level
        assert got["namedClass"] == want.get("namedClass", "")
        assert [one["code"] for one in got["scores"]] == [one["code"] for one in want.get("classes", [])]
        verdicts.add(got["verdict"])
    assert len(verdicts) == (3 if card is _CARDS[0] else len(verdicts))


@pytest.mark.parametrize("missing", ["score", "gate"])
def test_without_the_check_for_skin_nothing_is_confident_or_of_low_risk(once: App, missing: str) -> None:
    card = _card(maxOodScore=None if missing == "gate" else 30.0)
    given = [
        [{"probabilities": s.probabilities.tolist(), "oodScore": None if missing == "score" else 0.0}, asdict(m)]
        for s, m in _cases(300)
    ]
    found = _evaluate(once, "return given[0].map(([s, m]) => device.judge(s, m, given[1]));", [given, card])
    assert {one["verdict"] for one in found} == {"VERDICT_UNCERTAIN"}
    assert {one["level"] for one in found} == {"intermediate", "high"}
    assert {one["namedClass"] for one in found} == {""}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (222, 184, 160), (128, 128, 128), (0, 90, 200)])
def test_an_even_picture_is_never_harmless_on_the_device(once: App, colour: tuple[int, int, int]) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (600, 450), colour).save(photo, "JPEG", quality=95)
    answer = _device(once, photo.getvalue(), "FULL")
    assert answer["verdict"] != "VERDICT_CONFIDENT"
    assert answer["level"] in ("none", "intermediate")
    assert answer["namedClass"] == ""


def test_another_version_is_another_model(once: App) -> None:
    loaded = _evaluate(
        once,
        """const index = await (await fetch("/device/index.json")).json();
           const url = `/device/${index.model}/${index.version}/model.tflite`;
           const [first, again] = await Promise.all([device.load(url), device.load(url)]);
           const missing = await device.load("/device/none/1/model.tflite").then(() => "loaded", () => "missing");
           const other = await device.load(`${url}?another`);
           return [first === again, missing, first === other];""",
        None,
    )
    assert loaded == [True, "missing", False]


@pytest.fixture(scope="module")
def prepared(runtime: None, browser: Browser, served: str) -> Iterator[App]:
    """The page on a phone that has been prepared for answering by itself."""
    with App.opened(browser, served, shots=SHOTS) as app:
        app.tab("Settings")
        expect(app.page.locator("#device")).to_contain_text("it knows 3 kinds of spots")
        expect(app.page.locator("#device")).to_contain_text("about 12 MB")
        app.press("Prepare for offline use")
        app.page.locator("#prepared").wait_for(timeout=100_000)
        app.until("navigator.serviceWorker.controller !== null")
        yield app


@pytest.fixture
def ready(prepared: App) -> Iterator[App]:
    prepared.tab("Check")
    yield prepared
    prepared.page.unroute_all()
    prepared.context.set_offline(False)


def test_without_a_network_the_device_answers_and_the_page_says_so(ready: App, lesion: pathlib.Path) -> None:
    ready.context.set_offline(True)
    ready.page.reload()
    expect(ready.page.locator(".banner")).to_contain_text("looked at on this device")
    words = ready.classify(lesion).inner_text()
    assert "Answered on this device, without a network" in words
    assert "Limited check on this device" in words
    ready.press("Show or print for a doctor")
    expect(ready.page.locator(".report")).to_contain_text("Limited check on this device")
    ready.page.go_back()
    ready.press("Save to history")
    expect(ready.page.locator(".entry")).to_have_count(1)


def test_where_the_network_leads_nowhere_the_device_answers(ready: App, lesion: pathlib.Path) -> None:
    ready.page.route("**/v1/**", lambda route: route.abort("addressunreachable"))
    ready.page.reload()
    expect(ready.page.locator(".banner")).to_contain_text("looked at on this device")
    assert "Answered on this device" in ready.classify(lesion).inner_text()


def test_when_the_connection_is_lost_the_device_can_answer(ready: App, lesion: pathlib.Path) -> None:
    ready.page.reload()
    ready.page.route("**/v1/models/*:classify*", lambda route: route.abort("connectionreset"))
    ready.choose(lesion)
    ready.press("Analyse")
    ready.press("Answer on this device")
    assert "Answered on this device" in ready.result().inner_text()


def test_a_model_whose_card_this_page_would_misread_does_not_answer(ready: App) -> None:
    assert f"SCHEMA = {SCHEMA_VERSION};" in (SOURCE / "offline.ts").read_text()
    script = """(change) => { const here = JSON.parse(localStorage["dermserve.device"]);
      here.card.schemaVersion += change; localStorage["dermserve.device"] = JSON.stringify(here); }"""
    ready.page.evaluate(script, -1)
    ready.tab("Settings")
    ready.page.reload()
    expect(ready.page.get_by_role("button", name="Prepare for offline use")).to_be_visible()
    ready.page.evaluate(script, 1)
    ready.page.reload()
    expect(ready.page.locator("#prepared")).to_be_visible()


def test_a_model_whose_files_the_browser_removed_is_offered_again(ready: App) -> None:
    (kept,) = ready.page.evaluate(_KEPT)
    assert kept.endswith(RUNTIME_VERSION)  # the service worker of a page with another runtime removes it
    ready.page.evaluate("(name) => caches.delete(name)", kept)
    ready.page.reload()
    ready.tab("Settings")
    expect(ready.page.locator("#prepared")).to_have_count(0)
    ready.press("Prepare for offline use")
    expect(ready.page.locator("#prepared")).to_be_visible()


def test_settings_say_what_the_device_takes_and_remove_it(ready: App) -> None:
    ready.tab("Settings")
    taken = ready.page.locator("#prepared").inner_text().partition("It takes ")[2]
    assert 9 < float(taken.split()[0]) < 16
    ready.press("Remove it")
    expect(ready.page.get_by_role("button", name="Prepare for offline use")).to_be_visible()
    assert ready.page.evaluate(_KEPT) == []
