"""Lighthouse's checks of an installable page and of best practices, most of them asked of Chromium itself."""

import io
import json
import re
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Request

from dermserve.edge import SITE
from tests.edge.envoys import ask
from tests.web.conftest import SHOTS
from tests.web.page import App

APP = SITE / "app"
IN_A_TEST = {"in-incognito"}
"""What Chromium holds against installing in a context of its own, which every test has."""


def test_the_manifest_has_what_installing_needs() -> None:
    manifest = json.loads((APP / "manifest.webmanifest").read_text())
    assert {"name", "short_name", "id", "lang", "description", "theme_color", "background_color"} <= manifest.keys()
    assert (manifest["display"], manifest["start_url"], manifest["scope"]) == ("standalone", "/app/", "/app/")
    assert len(manifest["short_name"]) <= 12, "longer ones are cut off under an icon"
    purposes = {purpose for icon in manifest["icons"] for purpose in icon.get("purpose", "any").split()}
    assert purposes == {"any", "maskable"}
    assert "any maskable" not in {icon.get("purpose") for icon in manifest["icons"]}, "one is cropped, one is not"
    for icon in manifest["icons"]:
        data = (SITE / icon["src"].removeprefix("/")).read_bytes()
        if icon["type"] == "image/png":
            image = Image.open(io.BytesIO(data))
            assert f"{image.width}x{image.height}" == icon["sizes"]
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}


def test_the_document_is_one_that_phones_and_readers_understand() -> None:
    html = (APP / "index.html").read_text()
    assert html.startswith("<!doctype html>")
    assert re.search(r'<html lang="\w+"', html)
    assert html.index("charset") < 1024
    (viewport,) = re.findall(r'name="viewport" content="([^"]+)"', html)
    assert "width=device-width" in viewport
    assert not re.search("user-scalable|maximum-scale", viewport), "people zoom"
    for needed in ("<title>", 'name="description"', 'name="theme-color"', "apple-touch-icon", "<noscript>"):
        assert needed in html
    assert not re.search(r"<(script|style)[^>]*>[^<]|\son\w+=|\sstyle=", html), "the policy forbids what is inline"


def test_chromium_finds_no_fault_and_would_install_it(browser: Browser, served: str) -> None:
    with App.opened(browser, served, shots=SHOTS) as app:
        issues: list[Any] = []
        asked: list[str] = []
        chromium = app.context.new_cdp_session(app.page)
        chromium.on("Audits.issueAdded", lambda event: issues.append(event["issue"]))
        chromium.send("Audits.enable")
        app.context.on("request", lambda request: asked.append(_origin(request)))
        # Before: a page that loads while its service worker is activated is controlled from the next load on.
        app.until("navigator.serviceWorker.controller !== null")
        app.page.reload()
        app.page.wait_for_selector("#app[data-service]")
        manifest = chromium.send("Page.getAppManifest")
        assert (manifest["errors"], manifest["url"]) == ([], f"{served}/app/manifest.webmanifest")
        errors = chromium.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert {error["errorId"] for error in errors} <= IN_A_TEST
        for name in ("History", "Learn", "Settings", "Check"):
            app.tab(name)
        assert not issues
        assert {*asked} == {served}, "nothing is fetched from anywhere else"


def test_static_files_are_compressed_typed_and_cached(served: str) -> None:
    for path in APP.iterdir():
        answer = ask(served, "/app/" if path.name == "index.html" else f"/app/{path.name}", accept_encoding="gzip")
        kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".png": "image/png"}
        assert answer.headers["content-type"].startswith(kinds.get(path.suffix, "")), path.name
        assert "etag" in answer.headers, path.name
        if path.suffix in {".js", ".css", ".html", ".svg"} and path.stat().st_size > 1024:
            assert answer.headers.get("content-encoding") in {"gzip", "br"}, path.name


def _origin(request: Request) -> str:
    return "/".join(request.url.split("/")[:3])
