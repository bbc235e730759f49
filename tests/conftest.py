"""What several folders of tests need: the shared photos, a store with both models, and pictures made on the spot."""

import contextlib
import fcntl
import gc
import io
import os
import pathlib
import shutil
import signal
import socket
import time
from collections.abc import Callable, Generator

import numpy as np
import pytest
import pytest_timeout
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist
        gc.disable()  # until all is imported, none of which is garbage
    else:
        config.pluginmanager.register(Running(config))
    # A shell without job control starts background jobs with SIGINT ignored, and nohup with SIGHUP; so would their
    # children be started, and tests send both. A handler is not inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    # The Makefile lets this process alone keep memory that TensorFlow frees: getting it back took a third of an export.
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.pop(name, None)


# Folders whose tests share no processes: their files go to whichever pytest-xdist worker is free. Tests of any other
# folder run on one worker, so that what they share is started once, but for these files, which start their own.
_SPREAD = frozenset({"gateway", "loadtest", "models", "training"})
_ALONE = frozenset({"e2e/test_chaos.py", "lifecycle/test_version_changes.py"})
# Those that take longest begin first, so that the workers end together.
_LONGEST = (
    *("e2e", "loadtest/test_runs.py", "web", "lifecycle", "training/test_run.py", "models/test_graph.py", "packaging"),
    *("training/test_train.py", "modelserver", "edge", "k8s", "e2e/test_chaos.py", "lifecycle/test_version_changes.py"),
    *("gateway/test_fleet.py", "training/test_papers.py", "models/test_rounding.py", "training/test_network.py"),
    *("imaging", "models/test_export.py", "training/test_figures.py", "cli", "benchmarks", "training/test_identity.py"),
)
assert all((ROOT / "tests" / place).exists() for place in _LONGEST)


def group_of(nodeid: str) -> str:
    """Name what one worker runs as a whole: a test's folder below tests/, or its file."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    folder = file.partition("/")[0]
    return file if folder in _SPREAD or file in _ALONE else folder


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Start two workers more than there are cores: tests wait for half of their time, for servers and browsers."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each worker whole groups. `--dist loadgroup` does not, beside pytest 9.2 (pytest-xdist#1386)."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - it may be absent

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def _reschedule(self, node: object) -> None:
            # A worker waits to know the test after next, for ever where its groups have no other: those of a worker
            # that crashed come again, with what is left of each, be it one test or none (pytest-xdist#1323, #1327).
            while node in self.registered_collections and not node.shutting_down:
                super()._reschedule(node)
                if self._pending_of(self.assigned_work[node]) >= 2:
                    break

    return ByGroup(config, log)


def pytest_collection_finish() -> None:
    gc.freeze()  # or each collection would look at all of TensorFlow
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {group: place for place, group in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where two workers share a group: what its tests share would be started twice.

    So a test that crashed its worker fails at once where pytest-xdist runs it again, before a fixture hangs once more.
    """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        group = group_of(item.nodeid)
        claim = item.config._tmp_path_factory.getbasetemp().parent / f"group-{group.replace('/', '-')}"
        with contextlib.suppress(FileExistsError), claim.open("x") as file:
            file.write(worker)
        if claim.read_text() not in {worker, ""}:
            pytest.fail(f"{group} is on two workers, or one of them crashed", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Generator[None, object, object]:
    """Fail a test that hangs, and a minute later what it waits for in its own cleanup: pytest-timeout does so once."""
    done = yield
    signal.setitimer(signal.ITIMER_REAL, signal.getitimer(signal.ITIMER_REAL)[0], 60)
    return done


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Bound what follows a test that failed, where pytest-timeout has put its timer away."""
    item.ihook.pytest_timeout_set_timer(item=item, settings=pytest_timeout._get_item_settings(item))


class Running:
    """Keeps the tests that run in a file, which `.ci/run` prints where pytest can't, and says which ran at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._since: dict[str, float] = {}

    def _note(self) -> None:
        said = "".join(f"{time.strftime('%X', time.localtime(at))} {test}\n" for test, at in self._since.items())
        (self._config._tmp_path_factory.getbasetemp() / "running").write_text(said)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._since[nodeid] = time.time()
        self._note()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._since.pop(nodeid, None)
        self._note()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for test, at in self._since.items():
            terminalreporter.write_line(f"did not end: {test}, {time.time() - at:.0f} s ago begun", red=True)


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


def exported(factory: pytest.TempPathFactory, model: str) -> pathlib.Path:
    """Export version 1 of a model once for all workers, with the weights that a user gets by default."""

    def build(folder: pathlib.Path) -> None:
        from dermserve.models.export import export  # noqa: PLC0415 - neither the controller nor most workers need it

        export.main(["--model", model, "--store", str(folder)], standalone_mode=False)

    return once(factory, model, build) / model


def store_of(target: pathlib.Path, *models: pathlib.Path) -> pathlib.Path:
    """Make a store of one's own of models' folders: its list of models may be changed, its versions may not."""
    for model in models:
        shutil.copytree(model, target / model.name, copy_function=os.link)
    return target


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store with version 1 of both models, with the shipped weights."""
    models = (exported(tmp_path_factory, model) for model in ("resnet50", "mobilenet_v3_small"))
    return store_of(tmp_path_factory.mktemp("store"), *models)


def tiny(factory: pytest.TempPathFactory, model: str) -> pathlib.Path:
    """Version 1 of a model, whole, but for a network that takes no time to load, to warm up and to ask."""

    def build(folder: pathlib.Path) -> None:
        from tests.tiny import export_tiny  # noqa: PLC0415 - TensorFlow takes seconds

        export_tiny(model, folder)

    return once(factory, f"tiny-{model}", build) / model


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store with version 1 of the smaller model alone, of a tiny network with random weights."""
    return store_of(tmp_path_factory.mktemp("store"), tiny(tmp_path_factory, "mobilenet_v3_small"))


@pytest.fixture
def own_store(tmp_path_factory: pytest.TempPathFactory, tmp_path: pathlib.Path) -> pathlib.Path:
    """Tiny versions of both models in a store that no other test serves."""
    return store_of(tmp_path / "own", *(tiny(tmp_path_factory, name) for name in ("resnet50", "mobilenet_v3_small")))


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
