"""What the edge adds to a call, and what an answer on the device costs, in one run.

    make bench                              # with the gateway's own
    python benchmarks/edge.py --json        # the same for machines

Rounds alternate between gRPC straight to the gateway, gRPC through Envoy, a photo as an HTTP body and JSON with base64
through Envoy, over connections that stay open, so that a noisy machine disturbs all alike. `adds` is a median over the
first one's. With Chromium and the on-device runtime (`make web`), the page answers on this machine, too.
"""

import base64
import http.client
import json
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable

import click
import numpy as np

from dermserve.client import Client
from dermserve.edge import Settings
from dermserve.edge.files import RUNTIME
from dermserve.local import Stack
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


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


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


def _measure(calls: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, object]]:
    for call in list(calls.values()) * _WARM_UP:
        call()
    times = np.array([[_timed(call) for call in calls.values()] for _ in range(rounds)])
    p50, p99 = np.percentile(times, [50, 99], axis=0)
    names = enumerate(calls)
    return [{"call": name, "p50": p50[i], "p99": p99[i], "adds": p50[i] - p50[0]} for i, name in names]


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


@click.command()
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--rounds", type=click.IntRange(10), default=300, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def main(store: pathlib.Path, rounds: int, as_json: bool) -> None:
    """Measure what the edge adds."""
    photo = draw_lesion()
    many = {"requests_per_minute": 6_000_000, "burst": 1_000_000}
    with (
        Stack(store=store, models=[_MODEL], port=0, tfs_port=0) as stack,
        Edge(Settings(gateway=stack.gateway_address, listen="127.0.0.1:0", **many), store=store) as edge,
        Client(stack.gateway_address) as gateway,
        Client(edge.url.removeprefix("http://")) as through,
    ):
        rows = _measure(_calls(gateway, through, edge.url, photo), rounds)
        device = _on_device(edge.url, photo)
    if as_json:
        for row in [*rows, {"call": "on the device", "p50": statistics.median(device) if device else None}]:
            click.echo(json.dumps(row))
        return
    click.echo(f"{_MODEL}, photo of {len(photo) / 1000:.0f} kB, {rounds} alternating rounds, milliseconds\n")
    click.echo("| call | p50 | p99 | adds to p50 |\n|---|---|---|---|")
    for row in rows:
        click.echo(f"| {row['call']} | {row['p50']:.1f} | {row['p99']:.1f} | {row['adds']:.1f} |")
    if device:
        click.echo(f"\non the device, in Chromium: {statistics.median(device):.1f} ms a view (median of {len(device)})")
    else:
        click.echo("\nnot tried on the device: that needs Chromium, `make web`, and a model.tflite in the store")


if __name__ == "__main__":
    main()
