"""A real stack with the shipped weights, a real Envoy, and a real Chromium that looks at the page.

They end with this folder's tests: Playwright leaves an event loop running in its thread, in which `asyncio.run` of a
later test would fail.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, expect, sync_playwright

from dermserve.edge import Settings
from dermserve.edge.config import ON_DEVICE, RUNTIME
from dermserve.local import Stack
from dermserve.local.edge import Edge
from tests.conftest import exported, store_of
from tests.drawing import draw_lesion
from tests.web.page import App, phone_of, write_video

expect.set_options(timeout=100_000)  # on a busy machine a page takes its time
ROOT = pathlib.Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build/screenshots"
SHIPPED = ROOT / "models/dermserve/models/shipped" / ON_DEVICE
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--process-per-site", "--use-fake-device-for-media-stream"),
]


@pytest.fixture(scope="package")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store with the shipped MobileNetV3Small, and model.tflite beside it."""
    return store_of(tmp_path_factory.mktemp("trained"), exported(tmp_path_factory, ON_DEVICE))


@pytest.fixture(scope="package")
def served(trained_store: pathlib.Path) -> Iterator[str]:
    """Where the page is."""
    many = {"requests_per_minute": 600_000, "burst": 10_000}
    with contextlib.ExitStack() as running:
        with pytest.MonkeyPatch.context() as environment:
            # However long the machine stalls, no view is left out for want of time.
            environment.setenv("DERMSERVE_DEFAULT_DEADLINE_SECONDS", "600")
            environment.setenv("DERMSERVE_MAX_DEADLINE_SECONDS", "600")
            stack = running.enter_context(Stack(store=trained_store, models=[ON_DEVICE], port=0, tfs_port=0))
        settings = Settings(gateway=stack.gateway_address, listen="127.0.0.1:0", **many)  # type: ignore[arg-type]
        yield running.enter_context(Edge(settings, store=trained_store)).url


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


def _launch(playwright: Playwright, *flags: str) -> Browser:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("NOT TESTED: the page needs Chromium (apt-get install chromium)")
    return playwright.chromium.launch(executable_path=chromium, headless=True, args=[*FLAGS, *flags])


@pytest.fixture(scope="package")
def camera(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for a browser whose camera sees a drawn lesion, and may be used."""
    video = tmp_path_factory.mktemp("camera") / "lesion.y4m"
    write_video(video, draw_lesion(seed=3))
    return ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-video-capture={video}"]


@pytest.fixture(scope="package")
def browser(playwright: Playwright, camera: list[str]) -> Iterator[Browser]:
    browser = _launch(playwright, *camera)
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def large_browser(playwright: Playwright, camera: list[str]) -> Iterator[Browser]:
    """One that is set to text of twice the size."""
    browser = _launch(playwright, *camera, "--blink-settings=defaultFontSize=32")
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def shy_browser(playwright: Playwright) -> Iterator[Browser]:
    """One whose camera may not be used."""
    browser = _launch(playwright, "--deny-permission-prompts")
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def phone(browser: Browser, served: str) -> Iterator[BrowserContext]:
    """A phone with a page that keeps Chromium's process of this site alive: starting one takes most of a second."""
    context = phone_of(browser)
    context.new_page().goto(f"{served}/openapi.json")
    yield context
    context.close()


@pytest.fixture
def app(phone: BrowserContext, served: str) -> Iterator[App]:
    """The page on a phone, which forgets afterwards what the page has stored."""
    with App.opened_on(phone, served, shots=SHOTS) as app:
        yield app
        kept, *pages = phone.pages
        for page in pages:
            page.close()
        phone.set_offline(False)
        chromium = phone.new_cdp_session(kept)
        chromium.send("Storage.clearDataForOrigin", {"origin": served, "storageTypes": "all"})
        chromium.detach()


@pytest.fixture(scope="module")
def once(browser: Browser, served: str) -> Iterator[App]:
    """The page on a phone, opened once for all tests of a module that leave nothing behind."""
    with App.opened(browser, served, shots=SHOTS) as app:
        yield app


@pytest.fixture
def tidy(once: App) -> App:
    """The same page, on its first screen: for a test that neither saves anything nor changes settings."""
    once.page.unroute_all()
    once.go("/")
    once.page.wait_for_selector("#file", state="attached")
    return once


@pytest.fixture(scope="session")
def runtime() -> None:
    if not RUNTIME.is_dir():
        pytest.skip("NOT TESTED: answers on the device need the runtime (make web)")


@pytest.fixture(scope="package")
def lesion(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("photos") / "lesion.jpg"
    path.write_bytes(draw_lesion())
    return path


@pytest.fixture(scope="package")
def confident() -> dict[str, object]:
    """An answer that is sure of a benign class."""
    text = """{"requestId": "one", "model": "resnet50", "version": "3", "verdict": "VERDICT_CONFIDENT", "reasons": [],
      "classes": [{"code": "nv", "name": "melanocytic nevus", "commonName": "mole", "probability": 0.93, "std": 0.02},
                  {"code": "mel", "name": "melanoma", "commonName": "melanoma, a dangerous skin cancer",
                   "probability": 0.07, "std": 0.02, "malignant": true}],
      "malignancy": {"level": "RISK_LEVEL_LOW", "probability": 0.07, "std": 0.02}, "namedClass": "nv",
      "weightsDigest": "0123456789abcdef", "gatewayVersion": "0.1",
      "viewsAsked": 10, "viewsUsed": 10, "timings": {"totalMs": 80.5}}"""
    found: dict[str, object] = json.loads(text)
    return found


@pytest.fixture
def result(app: App, lesion: pathlib.Path, confident: dict[str, object]) -> App:
    """The page, showing the result of a harmless spot."""
    app.answer_with(confident)
    app.classify(lesion)
    return app
