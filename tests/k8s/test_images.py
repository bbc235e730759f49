"""The images build, and run as the manifests say, each container with what the kubelet would give it.

`make test-images` builds them and runs this; that takes an engine and ten minutes or more, so other runs skip it aloud.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dermserve.models.lifecycle.manifest import MANIFEST, changes, parse_manifest
from tests.drawing import draw_lesion
from tests.k8s.engine import Container, Engine, empty_dir, find_engine
from tests.k8s.rendering import ROOT, render

IMAGES = {
    "gateway": "docker.io/dermserve/gateway:0.1.0",
    "edge": "docker.io/dermserve/edge:0.1.0",
    "local": "docker.io/dermserve/local:0.1.0",
    "store": "docker.io/dermserve/store:0.1.0",
    "loadtest": "docker.io/dermserve/loadtest:0.1.0",
    "models": "docker.io/dermserve/models:1",
}
PYTHON = "/opt/dermserve/bin/python"
NAME = f"dermserve-test-{os.getpid()}"
CONFINED = """
import errno, json, pathlib
lines = pathlib.Path("/proc/1/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
def refused(path):
    try:
        pathlib.Path(path, "written").write_text("")
    except OSError as error:
        return errno.errorcode[error.errno]
shown = {key: status[key] for key in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
print(json.dumps(shown | {path: refused(path) for path in ("/", "/opt/dermserve", "/etc", "/tmp")}))
"""
PACKAGES = """
import importlib.metadata
for each in importlib.metadata.distributions():
    print(each.name, each.version)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return find_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def packed(engine: Engine) -> pathlib.Path:
    """The store that is in the models' image; `make images` has built them all."""
    for image in IMAGES.values():
        engine("image", "inspect", image)
    return pathlib.Path(os.environ["DERMSERVE_STORE"])


@pytest.fixture(scope="module")
def models(engine: Engine, packed: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The volume that the init container filled."""
    scratch = tmp_path_factory.mktemp("models")
    volume = empty_dir(scratch / "volume")
    container = Container(render("local"), "modelserver", "models")
    engine.run("--network=none", *container.options(engine, scratch, {"models": volume}))
    return volume


@pytest.fixture(scope="module")
def modelserver(engine: Engine, models: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stand-in, with a network of its own that others join."""
    scratch = tmp_path_factory.mktemp("modelserver")
    options = Container(render("local"), "modelserver", "modelserver").options(engine, scratch, {"models": models})
    with engine.running(f"{NAME}-modelserver", "--network=none", *options) as name:
        _probe(engine, name, "127.0.0.1:8500", "")
        yield name


@contextlib.contextmanager
def _gateway(engine: Engine, modelserver: str, scratch: pathlib.Path, port: int) -> Iterator[str]:
    listens = {"DERMSERVE_LISTEN": f"0.0.0.0:{port}", "DERMSERVE_HEALTH_LISTEN": f"0.0.0.0:{port + 1}"}
    options = Container(render("local"), "gateway", "gateway").options(engine, scratch, {}, **listens)
    hosts = scratch / "hosts"  # what the cluster's DNS would know
    hosts.write_text("127.0.0.1 localhost modelserver\n")
    network = [f"--network=container:{modelserver}", f"--volume={hosts}:/etc/hosts:ro"]
    with engine.running(f"{NAME}-gateway-{port}", *network, *options) as name:
        _probe(engine, modelserver, f"127.0.0.1:{port + 1}", "dermserve.v1.Classifier")
        yield name


@pytest.fixture(scope="module")
def gateway(engine: Engine, modelserver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _gateway(engine, modelserver, tmp_path_factory.mktemp("gateway"), 50051) as name:
        yield name


def _beside(modelserver: str, *arguments: str, photo: pathlib.Path | None = None) -> list[str]:
    """Give what runs beside.py in a container of the gateway's image, on the servers' network."""
    here = pathlib.Path(__file__).parent
    mounts = [f"--volume={here / 'beside.py'}:/beside.py:ro", *([f"--volume={photo}:/photo.jpg:ro"] if photo else [])]
    start = [f"--network=container:{modelserver}", *mounts, f"--entrypoint={PYTHON}"]
    return [*start, IMAGES["gateway"], "/beside.py", *arguments]


def _probe(engine: Engine, modelserver: str, address: str, service: str) -> None:
    try:
        engine.run(*_beside(modelserver, "probe", address, service), seconds=400)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{engine('logs', modelserver, check=False)[-3000:]}") from error


@pytest.fixture
def photo_file(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "photo.jpg").write_bytes(draw_lesion(seed=0))
    (tmp_path / "photo.jpg").chmod(0o644)
    return tmp_path / "photo.jpg"


@pytest.mark.usefixtures("packed")
def test_the_gateways_image_is_small(engine: Engine) -> None:
    size = int(engine("image", "inspect", IMAGES["gateway"], "--format={{.Size}}"))
    sys.stdout.write(f"{IMAGES['gateway']}: {size / 1e6:.0f} MB\n")
    assert size <= 200e6


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is_and_is_not_roots(engine: Engine, image: str) -> None:
    config = engine.inspect(IMAGES[image])["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert {"title", "description", "version", "base.name"} <= labels.keys()
    assert labels["title"].startswith("dermserve ")
    subprocess.run(["git", "rev-parse", "--verify", f"{labels['revision']}^{{commit}}"], cwd=ROOT, check=True)
    assert config["User"] == ("65532:65532" if image == "loadtest" else "10001:10001")


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("image", ["gateway", "edge", "local", "store", "loadtest"])
def test_the_bill_of_materials_names_every_package(engine: Engine, image: str, tmp_path: pathlib.Path) -> None:
    sbom = json.loads(engine.read(IMAGES[image], "/opt/dermserve/sbom.cdx.json", tmp_path / "sbom.json"))
    printed = engine.run("--network=none", f"--entrypoint={PYTHON}", IMAGES[image], "-c", PACKAGES)
    installed = {tuple(line.split()) for line in printed.splitlines()}
    named = {(each["name"], each["version"]) for each in [*sbom["components"], sbom["metadata"]["component"]]}
    assert installed <= named
    assert ("dermserve", importlib.metadata.version("dermserve")) in installed
    assert ("tensorflow" in dict(installed)) == (image == "local")


def test_the_models_bill_names_every_version_and_its_digest(
    engine: Engine, packed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    sbom = json.loads(engine.read(IMAGES["models"], "/store/sbom.cdx.json", tmp_path / "sbom.json"))
    digests = {each["bom-ref"]: each["hashes"][0]["content"] for each in sbom["components"]}
    found = {
        file.parents[1]: parse_manifest(file.read_bytes(), where=str(file)) for file in packed.glob(f"*/*/{MANIFEST}")
    }
    assert digests == {folder.relative_to(packed).as_posix(): manifest.digest for folder, manifest in found.items()}
    labels = engine.inspect(IMAGES["models"])["Config"]["Labels"]
    assert labels["dev.dermserve.models"].split() == sorted(digests)


def test_the_init_container_copies_every_version_whole(packed: pathlib.Path, models: pathlib.Path) -> None:
    copied = {file.relative_to(models) for file in models.glob(f"*/*/{MANIFEST}")}
    assert copied == {file.relative_to(packed) for file in packed.glob(f"*/*/{MANIFEST}")}
    for file in copied:
        manifest = parse_manifest((models / file).read_bytes(), where=str(file))
        assert changes((models / file).parents[1], manifest) == []
    assert not list(models.glob(".*")) + list(models.glob("audit.jsonl"))


def test_the_init_container_stops_a_pod_whose_versions_are_not_signed(
    engine: Engine, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    volumes = {"models": models, "signing-key": tmp_path / "keys"}
    volumes["signing-key"].mkdir()
    private, public = tmp_path / "release.key", volumes["signing-key"] / "release.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True)
    public.chmod(0o644)
    options = Container(render("production+signed"), "modelserver", "verify").options(engine, tmp_path, volumes)
    with pytest.raises(AssertionError, match="is not signed"):
        engine.run("--network=none", *options)


@pytest.mark.parametrize("server", ["gateway", "modelserver"])
def test_a_server_is_nobody_may_nothing_and_writes_only_to_tmp(
    engine: Engine, gateway: str, modelserver: str, server: str
) -> None:
    name = {"gateway": gateway, "modelserver": modelserver}[server]
    found = json.loads(engine("exec", name, PYTHON, "-c", CONFINED))
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"10001"}
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert [found[path] for path in ("/", "/opt/dermserve", "/etc")] == ["EROFS"] * 3
    assert found["/tmp"] is None


@pytest.mark.parametrize("model", ["resnet50", "mobilenet_v3_small"])
def test_a_photo_is_classified(
    engine: Engine, gateway: str, modelserver: str, photo_file: pathlib.Path, model: str
) -> None:
    client = ["classify", "/photo.jpg", "--json", f"--model={model}", "--tta=full", "--server=127.0.0.1:50051"]
    place = [f"--network=container:{modelserver}", f"--volume={photo_file}:/photo.jpg:ro"]
    answer = json.loads(engine.run(*place, IMAGES["gateway"], *client))
    assert (answer["model"], answer["version"], answer["views_used"]) == (model, 1, 10)
    assert abs(sum(each["probability"] for each in answer["classes"]) - 1) < 1e-3


def test_the_load_tests_image_loads_a_gateway(engine: Engine, gateway: str, modelserver: str) -> None:
    place = [f"--network=container:{modelserver}", "--read-only", "--tmpfs=/tmp", IMAGES["loadtest"]]
    load = ["--mix=mobilenet_v3_small", "--users=1", "--run-time=5s", "--warm-up=1s", "--out=/tmp/report"]
    said = engine.run(*place, "run", "--server=127.0.0.1:50051", *load)
    assert said.splitlines()[-1].split()[0] == "all"
    assert said.splitlines()[-1].split()[-1] == "0.0%"


@pytest.mark.usefixtures("packed")
def test_commands_in_the_cluster_have_kubectl(engine: Engine) -> None:
    told = engine.run("--network=none", "--entrypoint=/usr/bin/kubectl", IMAGES["store"], "version", "--client")
    assert "Client Version: v1." in told


def test_stopping_under_load_loses_no_request(
    engine: Engine, gateway: str, modelserver: str, photo_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    container = Container(render("local"), "gateway", "gateway")
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_gateway(engine, modelserver, tmp_path, 50061))
        command = _beside(modelserver, "load", "127.0.0.1:50061", "127.0.0.1:50051", "/photo.jpg", photo=photo_file)
        start = [engine.program, "run", "--pull=never", f"--name={NAME}-callers"]
        stack.callback(engine.remove, f"{NAME}-callers")
        callers = stack.enter_context(
            subprocess.Popen([*start, *command], env=engine.environment, stdout=subprocess.PIPE, text=True)
        )
        assert callers.stdout is not None
        assert callers.stdout.readline() == "under load\n"
        begun = time.monotonic()
        engine("stop", f"--time={container.grace}", stopped)
        seconds = time.monotonic() - begun
        found = json.loads(callers.stdout.readline())
        state = engine.inspect(stopped)["State"]
        logs = subprocess.run([engine.program, "logs", stopped], env=engine.environment, capture_output=True, text=True,
                              check=True)  # fmt: skip
    events = [json.loads(line) for line in (logs.stdout + logs.stderr).splitlines() if line.startswith("{")]
    answered = {event["request_id"] for event in events if event["event"] == "request_answered"}
    sys.stdout.write(
        f"{len(answered)} answered by it, {len(found['refused'])} refused ({', '.join(set(found['reasons']))}) and "
        f"answered by the other; ended after {seconds:.1f} s of {container.grace} s\n"
    )
    assert found["lost"] == []
    assert answered == set(found["answered"])
    assert found["refused"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert seconds < container.grace


def test_the_edges_files_are_the_page_its_runtime_and_a_model(
    engine: Engine, packed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    manifests = render("production+edge")
    volumes = {"srv": empty_dir(tmp_path / "srv"), "keys": tmp_path / "keys"}
    volumes["keys"].mkdir()
    (volumes["keys"] / "keys.json").write_text('{"clinic": "sha256:' + 64 * "0" + '"}')
    for name in ("models", "files", "config"):
        options = Container(manifests, "edge", name).options(engine, tmp_path, volumes)
        engine.run("--network=none", *options)
    www = volumes["srv"] / "www"
    index = json.loads((www / "device/index.json").read_text())
    model = f"mobilenet_v3_small/{index['version']}/model.tflite"
    assert (index["runtime"], index["model"]) == (True, "mobilenet_v3_small")
    assert (www / "device" / model).read_bytes() == (packed / model).read_bytes()
    config = (volumes["srv"] / "envoy.yaml").read_text()
    for file in ("litert_wasm_internal.wasm", "litert_wasm_compat_internal.js"):
        assert (www / "app/litert" / file).stat().st_size
        assert f"/srv/edge/www/app/litert/{file}" in config
    assert "/srv/edge/www/api/rapidoc-min.js" in config
