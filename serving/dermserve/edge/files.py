"""The folder that is served as files: the page, its on-device runtime where there is one, and the on-device model."""

import json
import pathlib
import shutil
from typing import Any

from dermserve.edge.settings import SITE

RUNTIME = SITE.with_name("litert")
"""LiteRT.js, which `make web` puts here; it is 9 MB, so it is not in the repository."""
VIEWER = SITE.with_name("rapidoc")
"""RapiDoc, the viewer of the API page, which `make web` puts here; without it there is no such page."""
ON_DEVICE = "mobilenet_v3_small"
"""The model that is small enough for a phone."""
_MODEL = "model.tflite"


def gather(
    to: pathlib.Path,
    *,
    store: pathlib.Path | None = None,
    runtime: pathlib.Path = RUNTIME,
    viewer: pathlib.Path = VIEWER,
) -> dict[str, Any]:
    """Put all that is served as files into a folder, anew.

    Args:
        to: the folder; what is in it is removed.
        store: versioned store to take the on-device model from; none without it.
        runtime: folder of the on-device runtime; left out when there is none.
        viewer: folder of the API page's viewer; without it, that page is left out.

    Returns:
        The content of device/index.json: "runtime", and "model" and "version" when there is one to run.

    Raises:
        OSError: a file can't be read or written.
    """
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(SITE, to)
    found: dict[str, Any] = {"runtime": runtime.is_dir()}
    if runtime.is_dir():
        shutil.copytree(runtime, to / "app/litert")
    if viewer.is_dir():
        shutil.copytree(viewer, to / "api", dirs_exist_ok=True)
    else:
        shutil.rmtree(to / "api")
    newest = _newest(store) if store is not None else None
    if newest is not None:
        target = to / "device" / ON_DEVICE / newest.parent.name / _MODEL
        target.parent.mkdir(parents=True)
        shutil.copyfile(newest, target)
        found |= {"model": ON_DEVICE, "version": newest.parent.name}
    index = to / "device/index.json"
    index.parent.mkdir(exist_ok=True)
    index.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def _newest(store: pathlib.Path) -> pathlib.Path | None:
    """Find the model of the highest version that has one."""
    models = [path for path in (store / ON_DEVICE).glob(f"*/{_MODEL}") if path.parent.name.isdigit()]
    return max(models, key=lambda path: int(path.parent.name), default=None)
