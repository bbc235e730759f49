"""The API page: the OpenAPI document as a page, with a form that sends a photo. It loads nothing from elsewhere."""

import pathlib

import pytest
from playwright.sync_api import Browser, expect

from dermserve.edge import SITE
from dermserve.edge.config import VIEWER

pytestmark = pytest.mark.skipif(not VIEWER.is_dir(), reason="NOT TESTED: the API page needs its viewer (make web)")


def test_the_page_for_people_does_not_load_the_viewer() -> None:
    assert not [path for path in (SITE / "app").iterdir() if b"rapidoc" in path.read_bytes()]


def test_the_api_page_shows_every_operation_and_sends_a_photo(
    browser: Browser, served: str, lesion: pathlib.Path
) -> None:
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{served}/api/")
    for operation in (
        "Classifies one photo",
        "Lists the models",
        "Returns one model",
        "Says whether a gateway can answer",
    ):
        expect(page.get_by_role("heading", name=operation)).to_be_visible()
    expect(page.get_by_text("A screening aid, never a diagnosis").first).to_be_visible()

    form = page.locator("api-request").first
    for width in (1280, 360):  # a phone's: all that is to be read or pressed is within it
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("scrollTo(0, 0)")
        seen = [page.locator("#api-title + div"), *form.get_by_role("button").all()]
        for box in filter(None, (each.bounding_box() for each in seen)):
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    form.locator("[data-pname=model_name]").fill("mobilenet_v3_small")
    form.locator("select").first.select_option("image/jpeg")
    form.locator("input[type=file]").set_input_files(lesion)
    with page.expect_response("**/v1/models/mobilenet_v3_small:classify*") as response:
        form.get_by_role("button", name="TRY", exact=True).click()
    assert response.value.status == 200
    expect(
        form.get_by_text("Screening aid, not a diagnosis: it can miss").first
    ).to_be_visible()  # shown with the answer
    assert said == []
    assert {url for url in asked if not url.startswith(served)} == set()
    page.close()
