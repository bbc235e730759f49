"""What several folders of tests need: the shared photos, a store with both models, and pictures made on the spot."""

import fcntl
import io
import os
import pathlib
import signal
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    # A shell without job control starts background jobs with SIGINT ignored, and nohup with SIGHUP; so would their
    # children be started, and tests send both. A handler is not inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


# Folders whose tests share no processes: their files go to whichever pytest-xdist worker is free. Tests of any other
# folder run on one worker, so that what they share is started once.
_SPREAD = frozenset({"gateway", "k8s", "loadtest", "models", "training"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `pytest -n N --dist loadgroup`."""
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        item.add_marker(pytest.mark.xdist_group(str(item.path) if folder in _SPREAD else folder))
    # Playwright leaves an event loop running in its thread, in which asyncio.run of a later test would fail.
    items.sort(key=lambda item: item.path.parent.name == "web")


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Build a folder once for all pytest-xdist workers; nobody may change it afterwards."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            building = folder.with_name(f"{folder.name}.building")
            building.mkdir()
            build(building)
            building.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real photos and recordings that lies beside the checkout where the project is developed."""
    folder = pathlib.Path(os.environ.get("DERMSERVE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the project's shared folder, which is not at {folder} (set DERMSERVE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store with version 1 of both models, with random weights."""
    from dermserve.models.exporter import export_model

    def build(folder: pathlib.Path) -> None:
        for model in ("resnet50", "mobilenet_v3_small"):
            export_model(model, folder)

    return once(tmp_path_factory, "store", build)


@pytest.fixture
def own_store(store: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The same versions in a store that no other test serves: links to them."""
    for version in store.glob("*/*"):
        link = tmp_path / "own" / version.relative_to(store)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(version)
    return tmp_path / "own"


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 600×450, smooth enough that re-encoding changes little."""
    rows, columns = np.mgrid[0:450, 0:600] / 600
    rgb = np.stack([0.8 - 0.3 * columns, 0.6 - 0.2 * rows, 0.5 + 0.2 * columns * rows], -1)
    blob = np.exp(-((columns - 0.45) ** 2 + (rows - 0.4) ** 2) / 0.02)[..., np.newaxis]
    image = Image.fromarray((255 * np.clip(rgb - 0.4 * blob, 0, 1)).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()
