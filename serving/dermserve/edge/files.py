"""The folder of files that Envoy serves: the page, and if they exist its on-device runtime and model."""

import json
import pathlib
import shutil
from typing import Any

from dermserve.edge.settings import SITE

RUNTIME = SITE.with_name("litert")  # LiteRT.js, which `make web` puts here; it is 9 MB, so it is not in the repository
VIEWER = SITE.with_name("rapidoc")
"""RapiDoc, the viewer of the API page, which `make web` puts here; without it there is no such page."""
ON_DEVICE = "mobilenet_v3_small"  # the model that is small enough for a phone


def gather(to: pathlib.Path, *, store: pathlib.Path | None = None) -> dict[str, Any]:
    """Write all files that Envoy serves into a folder, which is emptied first.

    The on-device model is that of the highest version in the store that has one; none without a store. The on-device
    runtime and the API page are left out where `make web` has not been run.

    Returns:
        The content of device/index.json: "runtime", and "model" and "version" when there is one to run.

    Raises OSError: a file can't be read or written.
    """
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(SITE, to)
    found: dict[str, Any] = {"runtime": RUNTIME.is_dir()}
    if RUNTIME.is_dir():
        shutil.copytree(RUNTIME, to / "app/litert")
    if VIEWER.is_dir():
        shutil.copytree(VIEWER, to / "api", dirs_exist_ok=True)
    else:
        shutil.rmtree(to / "api")
    models = (store / ON_DEVICE).glob("*/model.tflite") if store else ()
    by_version = {int(model.parent.name): model for model in models if model.parent.name.isdecimal()}
    if by_version:
        newest = by_version[max(by_version)]
        target = to / "device" / ON_DEVICE / newest.parent.name / newest.name
        target.parent.mkdir(parents=True)
        shutil.copyfile(newest, target)
        found |= {"model": ON_DEVICE, "version": newest.parent.name}
    index = to / "device/index.json"
    index.parent.mkdir(exist_ok=True)
    index.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found
