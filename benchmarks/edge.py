"""Measure what the edge adds to a call, and how long an answer on the device takes, in one run.

    make bench                              # after the gateway's benchmark
    python -m benchmarks.edge --json        # the same for machines

Rounds alternate between gRPC to the gateway, and through Envoy gRPC, a photo as an HTTP body and JSON with base64, over
connections that stay open. `ratio` is the median over that of gRPC to the gateway. With Chromium and the on-device
runtime (`make web`), the page answers on this machine, too.
"""

import base64
import http.client
import json
import pathlib
import shutil
from collections.abc import Callable

import click
import numpy as np

from benchmarks.figures import table
from benchmarks.serving import alternate, json_option, local_stack, store_option
from dermserve.client import Client
from dermserve.edge import Settings
from dermserve.edge.files import RUNTIME
from dermserve.local.edge import Edge
from dermserve.local.picture import draw_lesion

_MODEL = "mobilenet_v3_small"
_WARM_UP = 10
_VIEWS = 30
_CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_DEVICE = """async ([photo, rounds]) => {
  const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))]));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.min(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const index = await (await fetch("/device/index.json")).json();
  if (!index.model || !index.runtime) return [];
  const model = (await (await fetch("/v1/models/" + index.model)).json()).model;
  const card = model.versions.find((one) => one.version === index.version).card;
  const device = await import("/app/device.js");
  const url = `/device/${index.model}/${index.version}/model.tflite`;
  const times = [];
  for (let round = 0; round < rounds + 3; round++) {
    times.push((await device.answer(canvas, url, card, index.version, "NONE")).ms);
  }
  return times.slice(3);
}"""


def _poster(connection: http.client.HTTPConnection, body: bytes, kind: str) -> Callable[[], object]:
    def post() -> object:
        connection.request("POST", f"/v1/models/{_MODEL}:classify", body, {"content-type": kind})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer

    return post


def _calls(gateway: Client, through: Client, url: str, photo: bytes) -> dict[str, Callable[[], object]]:
    address = url.removeprefix("http://")
    as_json = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    return {
        "gRPC to the gateway": lambda: gateway.classify(photo, model=_MODEL),
        "gRPC through the edge": lambda: through.classify(photo, model=_MODEL),
        "photo as the HTTP body": _poster(http.client.HTTPConnection(address), photo, "image/jpeg"),
        "JSON with base64": _poster(http.client.HTTPConnection(address), as_json, "application/json"),
    }


def _on_device(url: str, photo: bytes) -> list[float]:
    """Return milliseconds of each view in the page; none where it can't be tried."""
    chromium = shutil.which("chromium")
    if chromium is None or not RUNTIME.is_dir():
        return []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_CHROMIUM)
        page = browser.new_page()
        page.goto(f"{url}/app/")
        times: list[float] = page.evaluate(_DEVICE, [base64.b64encode(photo).decode(), _VIEWS])
        browser.close()
    return times


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--rounds", type=click.IntRange(10), default=300, show_default=True)
@json_option
def main(store: pathlib.Path, rounds: int, as_json: bool) -> None:
    """Measure what the edge adds."""
    photo = draw_lesion()
    many = {"requests_per_minute": 6_000_000, "burst": 1_000_000}
    with (
        local_stack(store, [_MODEL]) as (stack, _),
        Edge(Settings(gateway=stack.gateway_address, listen="127.0.0.1:0", **many), store=store) as edge,
        Client(stack.gateway_address) as gateway,
        Client(edge.url.removeprefix("http://")) as through,
    ):
        calls = _calls(gateway, through, edge.url, photo)
        p50, p99 = np.percentile(alternate(list(calls.values()), rounds, warm_up=10), [50, 99], axis=0)
        device = _on_device(edge.url, photo)
    rows = [(name, p50[at], p99[at], f"{p50[at] / p50[0]:.2f}") for at, name in enumerate(calls)]
    if device:
        rows.append(("on the device, a view", *np.percentile(device, [50, 99]), f"{np.median(device) / p50[0]:.2f}"))
    if as_json:
        for name, middle, high, ratio in rows:
            click.echo(json.dumps({"call": name, "p50": middle, "p99": high, "ratio": float(ratio)}))
        return
    click.echo(f"{_MODEL}, photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds, milliseconds\n")
    click.echo(table(["call", "p50", "p99", "ratio of p50 to gRPC without the edge"], rows))
    if not device:
        click.echo("\nnot tried on the device: that needs Chromium, `make web`, and a model.tflite in the store")


if __name__ == "__main__":
    main()
