"""What a run belongs to: its experiment, photos, split and initial weights, checked before anything is overwritten."""

import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import click
import keras
import numpy as np
import portalocker
import pytest
from click.testing import CliRunner

import dermserve.imaging
from dermserve.contract import SCHEMA_VERSION
from dermserve.models.export import SHIPPED
from dermserve.models.exporter import run_content
from dermserve.models.training import cli
from dermserve.models.training.data import photos as pixels
from dermserve.models.training.data.layouts import read_provenance
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, Sample
from dermserve.models.training.errors import DataError, RunError, TrainingError, file_digest
from dermserve.models.training.evaluate import predictions
from dermserve.models.training.evaluate.predictions import Predictor
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.dataset import finished_data, prepare
from dermserve.models.training.train.finished import FinishedRun
from tests.training.conftest import draw, draw_photos
from tests.training.runs import EXPERIMENT, StoppedError, command, instead_of_training, start, tiny, untrained

pytestmark = pytest.mark.usefixtures("tiny_networks")
SHIPPED_DISTANCE = SHIPPED / "mobilenet_v3_small" / "distance.npz"

STATE = checkpoint.State(stage=0, epoch=1, history=[], variables=[np.zeros(2)], best=None, best_score=1.0, best_epoch=1)


Change = Callable[[Path], object]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("drawn") / "photos", each=8)


@pytest.fixture(scope="module")
def stopped(drawn: Path) -> Path:
    """A run folder as Ctrl-C in its second epoch leaves it."""
    out, experiment = drawn.parent / "out", tiny(text=EXPERIMENT)

    def stop() -> None:
        checkpoint.save(out, STATE)
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        instead_of_training(patch, stop)
        with pytest.raises(StoppedError):
            start(experiment, drawn, out)
    return out


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "photos"))


@pytest.fixture
def begun(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stopped run; from here on, nothing trains."""
    instead_of_training(monkeypatch)
    return Path(shutil.copytree(stopped, tmp_path / "out"))


def replace(photos: Path) -> None:
    draw(photos / "bcc" / "bcc_03.png", label=0, seed=78)


CHANGES: dict[str, Change] = {
    "added": lambda photos: draw(photos / "scc" / "new.png", label=1, seed=77),
    "replaced": replace,
    "renamed": lambda photos: (photos / "bcc" / "bcc_03.png").rename(photos / "bcc" / "zzz.png"),
    "moved": lambda photos: shutil.move(photos / "bcc" / "bcc_03.png", photos / "normal" / "bcc_03.png"),
    "lesions": lambda photos: (photos / "metadata.csv").write_text("image_id,lesion_id\nbcc_01,L\nbcc_02,L\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_its_own_photos_alone(photos: Path, begun: Path, change: str) -> None:
    before = files(begun)
    CHANGES[change](photos)
    with pytest.raises(RunError, match=r"of a training with another photos"):
        start(tiny(text=EXPERIMENT), photos, begun)
    assert files(begun) == before


def test_a_checkpoint_of_nobody_knows_what_is_refused(photos: Path, begun: Path) -> None:
    (begun / "fingerprint.json").unlink()
    before = files(begun)
    with pytest.raises(RunError, match=r"fingerprint\.json can't be read .*: restore it, or train again"):
        start(tiny(text=EXPERIMENT), photos, begun)
    assert files(begun) == before


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("l2 = 0.5\n", "experiment"),
        ("seed = 3\n", "experiment and split"),
        ("dropout = 0.1\n", "experiment"),
        ("", "initial weights"),
    ],
)
def test_a_run_goes_on_with_its_own_experiment_split_and_initial_weights_alone(
    photos: Path, begun: Path, tmp_path: Path, extra: str, what: str
) -> None:
    before, file = files(begun), None
    if not extra:
        file = tmp_path / "backbone.weights.h5"
        build_network(tiny()).get_layer("backbone").save_weights(file)
    with pytest.raises(RunError, match=f"of a training with another {what}:"):
        start(tiny(extra, EXPERIMENT), photos, begun, backbone=file)
    assert files(begun) == before


@pytest.mark.parametrize("damage", ["", "PK", "cut off", "one array", "another's"])
def test_a_damaged_checkpoint_is_named(begun: Path, damage: str) -> None:
    file = begun / "checkpoint.npz"
    if damage == "one array":
        with file.open("wb") as opened:
            np.save(opened, np.zeros(3))
    elif damage == "another's":
        np.savez(file, meta=np.array('{"stage": 0, "steps": 5}'))
    else:
        file.write_bytes(file.read_bytes()[:200] if damage == "cut off" else damage.encode())
    with pytest.raises(RunError, match=r"checkpoint\.npz is damaged .*: remove it to start again"):
        checkpoint.load(begun)


def test_a_run_goes_on_when_its_photos_lie_elsewhere(photos: Path, begun: Path) -> None:
    moved = photos.rename(photos.parent / "moved")
    start(tiny(text=EXPERIMENT), moved, begun)
    summary = FinishedRun(begun).summary
    assert (summary["experiment"], summary["data"], summary["license"]) == ("tiny", "not stated", "not stated")
    assert not list(begun.glob("*partial*"))


def test_a_folder_in_which_another_training_is_at_work_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str] = []

    def begin_again() -> None:
        if not met:
            met.append("one")
            with pytest.raises(RunError, match="in use by another command"):
                start(tiny(text=EXPERIMENT), photos, tmp_path / "out")
            met.append("refused")

    instead_of_training(monkeypatch, begin_again)
    start(tiny(text=EXPERIMENT), photos, tmp_path / "out")
    assert met == ["one", "refused"]


def test_two_that_begin_at_the_same_moment_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[Path]()

    def write(path: Path, _: object) -> None:
        """Let a second one begin while the first one writes what it belongs to."""
        written.append(path)
        if len(written) == 1:
            with pytest.raises(RunError, match="in use by another command"), checkpoint.claimed(tmp_path, {}):
                pass

    monkeypatch.setattr(checkpoint.errors, "write_json", write)
    with checkpoint.claimed(tmp_path, {}):
        assert len(written) == 1


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise portalocker.LockException("Operation not supported")

    monkeypatch.setattr(portalocker.Lock, "acquire", fail)
    with pytest.raises(OSError, match=r"No locks available: .*\.lock"), checkpoint.claimed(tmp_path, {}):
        pass


@pytest.mark.parametrize(
    ("text", "backbone", "message"),
    [
        (EXPERIMENT, b"no weights", "do not fit"),
        (EXPERIMENT + 'trainable = "from:typo"\n', None, "trainable = 'from:typo'"),
    ],
)
def test_a_training_that_cant_be_carried_through_leaves_no_folder(
    photos: Path, tmp_path: Path, text: str, backbone: bytes | None, message: str
) -> None:
    """So the same --out can be passed again with what was meant."""
    file = None if backbone is None else tmp_path / "backbone.weights.h5"
    if file is not None:
        file.write_bytes(backbone or b"")
    with pytest.raises(TrainingError, match=message):
        start(tiny(text=text), photos, tmp_path / "out", backbone=file)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_code_is_refused(photos: Path, stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    with pytest.raises(RunError, match="the checkpoint is of other code"):
        start(tiny(text=EXPERIMENT), photos, out)


def test_a_finished_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.npz").write_bytes(b"")
    with pytest.raises(RunError, match="holds a finished run"):
        start(tiny(), photos, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_finished_run_is_not_evaluated_on_other_photos_under_the_same_names(photos: Path) -> None:
    run, cache = untrained(tiny(), photos, photos.parent / "out"), photos.parent / "cache"
    assert finished_data(run, photos, cache=cache).parts == prepare(tiny(), photos, cache=cache).parts
    replace(photos)
    with pytest.raises(DataError, match=r"1 photos that are not those of the run's split, such as bcc/bcc_03\.png"):
        finished_data(run, photos, cache=cache)
    (photos / "bcc" / "bcc_03.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 photos of the run's split, such as bcc/bcc_03\.png"):
        finished_data(run, photos, cache=cache)


@pytest.mark.parametrize("what", [cli.pack, cli.tflite])
def test_packing_and_converting_see_no_test_photos(
    what: click.Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_training(monkeypatch)
    start(tiny(text=EXPERIMENT), photos, tmp_path / "out")
    run = FinishedRun(tmp_path / "out")
    run.update(schema_version=SCHEMA_VERSION, calibration={"temperature": 1.0}, prior_shift=[0.0, 0.0, 0.0])
    shutil.copy(SHIPPED_DISTANCE, run.folder)
    run.update(distance=file_digest(SHIPPED_DISTANCE))
    found: list[Labelled] = []

    def look(infer: object, photos: Labelled, **_: object) -> object:
        found.append(photos)
        raise StoppedError

    monkeypatch.setattr(predictions, "run_views", look)
    monkeypatch.setattr(Predictor, "_infer", None)
    arguments = [str(run.folder), "--data", str(photos), "--cache", str(tmp_path / "cache")]
    assert isinstance(CliRunner().invoke(what, arguments).exception, StoppedError)
    names = sorted(run.split)
    assert {run.split[names[row]].part for row in found[0].rows} == {Part.VALIDATION}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, about what is to be found
def test_the_first_loss_that_is_no_number_ends_training(photos: Path, tmp_path: Path) -> None:
    text = EXPERIMENT.replace("rate = 1e-3", "rate = 3e38")
    with pytest.raises(TrainingError, match=r"loss is \S+ in stage head, epoch 1, (step [23] of \d+|on valid).*lower"):
        start(tiny(text=text), photos, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint.npz").exists()
    assert not (tmp_path / "out" / "weights.npz").exists()


@pytest.mark.parametrize(
    ("file", "data", "license"),
    [
        (None, "not stated", "not stated"),
        (
            'name = "Clinic"\nlicense = "CC0"\nsource = "https://example.org"\n',
            "Clinic (https://example.org; CC0)",
            "CC0: that of the training data",
        ),
        ('name = "Clinic"', "Clinic (source not stated; licence not stated)", "not stated"),
        ('source = "here"', "name not stated (here; licence not stated)", "not stated"),
        ("\ufeffname = ' '\n", "not stated", "not stated"),
    ],
)
def test_the_data_is_what_its_file_says(tmp_path: Path, file: str | None, data: str, license: str) -> None:  # noqa: A002
    if file is not None:
        (tmp_path / "dataset.toml").write_text(file, encoding="utf-8")
    assert read_provenance(tmp_path) == {"data": data, "license": license}


@pytest.mark.parametrize("text", ["name =", "name = 3\n", "licence = 'CC0'\n", "[name]\n", "\udcff"])
def test_a_dataset_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"dataset\.toml"):
        read_provenance(tmp_path)


def test_the_card_names_the_data_as_stated(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_training(monkeypatch)
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    arguments = ["mobilenet_v3_small", "--data", photos, "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    (photos / "dataset.toml").write_text('name = "Clinic"\n')
    command(cli.train, *arguments, "--experiment", tmp_path / "tiny.toml")
    run = FinishedRun(tmp_path / "out")
    single = {"accuracy": 1.0, "accuracy_95": [0.9, 1.0], "balanced_accuracy": 1.0, "ece": 0.0}
    verdict = {"abstained": 0.0, "confident": 1.0, "malignant_confidently_benign": 0.0}
    run.update(
        schema_version=SCHEMA_VERSION,
        calibration={"temperature": 1.0},
        metrics={"test": {"single": single, "tta": single, "verdict": verdict}},
    )
    shutil.copy(SHIPPED_DISTANCE, run.folder)
    run.update(distance=file_digest(SHIPPED_DISTANCE))
    card = run_content(run.folder).provenance
    assert (card.data, card.license) == ("Clinic (source not stated; licence not stated)", "not stated")
    evaluated = run.summary
    for wrong in ({"calibration": {"temperature": 1.0, "risk": 0.1}}, {"metrics": {"test": {}}}, {"profile": {"a": 1}}):
        run.update(**(evaluated | wrong))
        with pytest.raises(
            RunError, match=r"run\.json has not what this dermserve writes .*: run `dermserve evaluate`"
        ):
            run_content(run.folder)
    for schema in (None, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1):
        run.update(**(evaluated | {"schema_version": schema}))
        with pytest.raises(RunError, match=r"schema version .*: run `dermserve evaluate` .* again"):
            run_content(run.folder)


def test_the_version_of_pixels_changes_with_any_line_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = Path(shutil.copytree(dermserve.imaging.__path__[0], tmp_path / "imaging"))
    versions = [pixels.imaging_version.__wrapped__()]
    monkeypatch.setattr(dermserve.imaging, "__path__", [str(code)])
    versions.append(pixels.imaging_version.__wrapped__())
    for name in ("views.py", "decode.py"):
        (code / name).write_text((code / name).read_text() + "\n")
        versions.append(pixels.imaging_version.__wrapped__())
    real = importlib.metadata.version
    for another in ("pillow", "cykooz-resizer", "simplejpeg", "pillow-heif"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, other=another: real(name) + "+" * (name == other)
        )
        versions.append(pixels.imaging_version.__wrapped__())
    assert versions[0] == versions[1]
    assert len(set(versions)) == 7


def test_predictions_by_other_view_code_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def look(infer: object, photos: Labelled, **_: object) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(photos))
        return np.zeros((len(photos), 1, 3), np.float32), np.zeros((len(photos), 2), np.float32)

    monkeypatch.setattr(predictions, "run_views", look)
    monkeypatch.setattr(Predictor, "_infer", None)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    photos = Labelled(np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3), np.arange(3), np.zeros(3, np.int64))
    judge = Predictor(network=network, cache=tmp_path)
    for version in ("one", "one", "two"):
        monkeypatch.setattr(predictions, "imaging_version", lambda version=version: version)
        judge.predict(photos, "photos")
    assert asked == [3, 3]
    damaged, *_ = tmp_path.rglob("*.npz")
    damaged.write_bytes(damaged.read_bytes()[:40])
    for version in ("one", "two", "one", "two"):
        monkeypatch.setattr(predictions, "imaging_version", lambda version=version: version)
        judge.predict(photos, "photos")
    assert asked == [3, 3, 3]


def test_only_what_measures_at_the_end_asks_for_test_photos() -> None:
    """Splitting and evaluation; nothing that chooses weights, thresholds or a conversion."""
    folder = SHIPPED.parent
    asking = {file.name for file in folder.rglob("*.py") if "Part.TEST" in file.read_text()}
    assert asking == {"dataset.py", "evaluation.py", "finished.py", "splits.py"}


def test_a_photo_that_was_used_is_known_again_by_its_bytes_its_name_or_its_lesion() -> None:
    run = FinishedRun(SHIPPED / "mobilenet_v3_small")
    stems = Counter(PurePosixPath(name).stem for name in run.split)
    used = {photo.lesion for photo in run.split.values() if photo.part is not Part.TEST}

    def unseen(path: str, lesion: str = "", digest: str = "") -> bool:
        return run.unseen(Sample(Path(path), path, 0, lesion or path, "", digest))

    once = {p.part: name for name, p in run.split.items() if stems[PurePosixPath(name).stem] == 1}
    for part in (Part.TRAIN, Part.VALIDATION):
        photo = run.split[once[part]]
        assert not unseen("elsewhere/renamed.jpg", digest=photo.digest)
        assert not unseen(f"elsewhere/{Path(once[part]).stem}.jpg")
        assert not unseen("elsewhere/another.jpg", lesion=photo.lesion)
    test = next(name for name, photo in run.split.items() if photo.part is Part.TEST and photo.lesion not in used)
    assert unseen(f"elsewhere/{Path(test).stem}.jpg")
    assert unseen("elsewhere/another.jpg", lesion=run.split[test].lesion)
    assert unseen("elsewhere/another.jpg")
