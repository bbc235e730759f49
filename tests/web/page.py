"""The page as a person uses it: by the words on its buttons."""

import contextlib
import io
import json
import pathlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}
_NOISE = re.compile(r"WebGPU|GPU adapter|adapters|INFO:|NPU accelerator|Failed to load resource")


@dataclass
class App:
    page: Page
    context: BrowserContext
    shots: pathlib.Path
    complaints: list[str]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, browser: Browser, url: str, *, shots: pathlib.Path, locale: str = "en-GB") -> Iterator["App"]:
        """Open the page on a phone that has never seen it."""
        context = phone_of(browser, locale)
        with cls.opened_on(context, url, shots=shots) as app:
            yield app
            context.close()

    @classmethod
    @contextlib.contextmanager
    def opened_on(cls, context: BrowserContext, url: str, *, shots: pathlib.Path) -> Iterator["App"]:
        """Open the page; what it says on the console but should not fails the test in the end."""
        page = context.new_page()
        app = cls(page, context, shots, [])
        page.on("pageerror", lambda error: app.complaints.append(str(error)))
        page.on("console", lambda said: app.complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{url}/app/")
        page.wait_for_selector("#app[data-service]")
        yield app
        assert not [said for said in app.complaints if not _NOISE.search(said)]

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def go(self, address: str) -> None:
        """Open a screen by its address."""
        self.page.goto(f"{self.page.url.partition('#')[0]}#{address}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("navigation").get_by_role("link", name=name).click()

    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    def words(self) -> str:
        return self.page.locator("main").inner_text()

    def choose(self, path: pathlib.Path) -> None:
        """Choose a file, and wait until the page has decoded it, or said that it can't."""
        self.page.set_input_files("#file", path)
        self.page.wait_for_selector("canvas.crop, [role=alert]")

    def classify(self, path: pathlib.Path) -> Locator:
        """From a file to its result."""
        self.choose(path)
        self.press("Analyse")
        return self.result()

    def result(self) -> Locator:
        found = self.page.locator(".result:has(#verdict)")
        found.wait_for()
        return found

    def unfold(self) -> None:
        """Open every disclosure."""
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")

    def until(self, expression: str) -> None:
        """Wait for something to be so; not with wait_for_function, which needs the eval that the page forbids."""
        deadline = time.monotonic() + 100
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def hold_database(self) -> None:
        """Let the page's database open only once `release()` is called on the page; `held` are those that wait."""
        self.page.evaluate("""() => {
            const open = IDBFactory.prototype.open;
            window.held = [];
            IDBFactory.prototype.open = function (...given) {
                const request = open.apply(this, given);
                Object.defineProperty(request, "onsuccess", {
                    set: (then) => request.addEventListener("success", (event) => window.held.push(() => then(event))),
                });
                return request;
            };
            window.release = () => {
                IDBFactory.prototype.open = open;
                window.held.forEach((then) => then());
            };
        }""")

    def shoot(self, name: str) -> None:
        self.shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.shots / f"{name}.png", full_page=True)

    def answer_with(self, answer: dict[str, Any], *, status: int = 200) -> list[bytes]:
        """Let the server answer so; return what it is sent."""
        sent: list[bytes] = []

        def reply(route: Route) -> None:
            sent.append(route.request.post_data_buffer or b"")
            route.fulfill(status=status, content_type="application/json", body=json.dumps(answer))

        self.page.route("**/v1/models/*:classify*", reply)
        return sent


def phone_of(browser: Browser, locale: str = "en-GB") -> BrowserContext:
    context = browser.new_context(viewport=PHONE, device_scale_factor=1, locale=locale, accept_downloads=True)  # type: ignore[arg-type]
    context.set_default_timeout(100_000)  # on a busy machine a page takes its time
    return context


def write_video(path: pathlib.Path, photo: bytes) -> None:
    """Write what a camera sees: the same picture, again and again (YUV4MPEG2)."""
    width, height = 640, 480
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((width, height))
    luma, blue, red = (np.asarray(band) for band in image.convert("YCbCr").split())
    frame = b"FRAME\n" + luma.tobytes() + blue[::2, ::2].tobytes() + red[::2, ::2].tobytes()
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode() + frame * 10)
