"""Build the examples of clients that this machine has tools for, and run them (`make examples`).

Each asks the real servers, with TLS and without, and a gateway that is overloaded at first.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import portalocker
import pytest
from google.rpc import code_pb2

from dermserve.edge import Settings
from dermserve.local import DRAWN, Stack
from dermserve.local.child import Child
from dermserve.local.edge import Edge
from tests.certificates import make_certificate
from tests.client.fake_gateway import FakeGateway, abort, answer, rich_status, serving
from tests.conftest import ROOT, exported, store_of

SECONDS = 450  # for one command: Kotlin downloads a compiler
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 60)]
SCRATCH = ROOT / "build" / "examples"
SITE = SCRATCH / "site"
MODEL = "mobilenet_v3_small"
PROTOSET = str(ROOT / "proto/gen/dermserve/v1/dermserve.protoset")
PAUSE = 0.4
PATH = f"{pathlib.Path(sys.executable).parent}:{SCRATCH / 'bin'}:{os.environ['PATH']}"


def shell(command: str, *arguments: str, cwd: pathlib.Path, **environment: str) -> str:
    """Run a shell command and return what it printed on stdout; afterwards none of its children is left."""
    with subprocess.Popen(
        ["/bin/sh", "-c", command, "sh", *arguments], cwd=cwd, env={**os.environ, **environment, "PATH": PATH},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, errors = process.communicate(timeout=SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{command}\n{printed}{errors}"[-3000:]
    return re.sub(r"\x1b\[\d*m", "", printed)  # Maven's colours


def ask_backend(photo: str, *, cwd: pathlib.Path, **environment: str) -> str:
    """Run backend.py; return its answers for a photo and for something else, as the other examples print them."""
    command = [sys.executable, "-m", "uvicorn", f"--app-dir={cwd}", "--port=0", "backend:app"]
    environment = {**environment, "PYTHONPATH": str(SITE)}
    backend = Child(command, name="backend", log=lambda _: None, ready=re.compile(r"http://\S+"), env=environment)
    try:
        post = f'curl -sS --noproxy "*" -F "photo=@$1" {backend.wait_ready(timeout=60)[0]}/check'
        answer, refusal = (json.loads(shell(post, file, cwd=cwd)) for file in (photo, __file__))
        strange = shell(f"{post} -H 'X-Request-Id: two words'", photo, cwd=cwd)
        assert "x-request-id" in strange, f"an id that no request may have: {strange}"
    finally:
        backend.stop(grace=20)
    said = f"{answer['verdict']} {answer['level']} {' '.join(answer['reasons'])}\n{answer['notice']}\n"
    return f"{said}refused: {refusal['reason']}\n"


@dataclass(frozen=True)
class Example:
    """One program in one language: shell commands in its folder, and the tools they need."""

    folder: str
    run: str | Callable[..., str]  # gets the photo as `$1`; empty: never run
    build: str = ":"
    built: str = ""  # what the build makes, below the folder; while it is newer than its sources, nothing is built
    needs: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("plain", "TLS")


_MAVEN = 'mvn -B -q exec:java -Dexec.args="$1"', "dermserve proto --out target/protos && mvn -B -q compile"
_NPM = "npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent generate && npm run --silent check"
_PIP = f"python -m pip install --quiet --disable-pip-version-check --upgrade --target {SITE} -r requirements.txt"
_GO = 'PROTOC="python -m grpc_tools.protoc" go generate . && go vet . && go build -o gen/classify .'
_GRPCURL = f"command -v grpcurl || GOBIN={SCRATCH}/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
_STUBS = "gen/connect/dermserve/v1/classifier_pb.ts"
EXAMPLES = {
    "python": Example("python", 'python classify.py "$1"'),
    "python-async": Example("python", 'python classify_async.py "$1"'),
    "python-backend": Example("python", ask_backend, _PIP, f"{SITE}/uvicorn", ("curl",)),
    "go": Example("go", 'gen/classify "$1"', _GO, "gen/classify", ("go",)),
    "node": Example("node", 'npx tsx classify.ts "$1"', _NPM, _STUBS, ("node", "npm")),
    "connect": Example("node", 'npx tsx connect.ts "$1"', _NPM, _STUBS, ("node", "npm")),
    "java": Example("java", *_MAVEN, "target/classes/Classify.class", ("java", "mvn")),
    "kotlin": Example("kotlin", *_MAVEN, "target/classes/ClassifyKt.class", ("java", "mvn")),
    "curl": Example("curl", 'sh classify.sh "$1"', needs=("curl", "jq"), ways=("TLS",)),
    "grpcurl": Example("grpcurl", 'sh classify.sh "$1"', _GRPCURL, f"{SCRATCH}/bin/grpcurl", ("go", "jq")),
    "dart": Example("dart", "", needs=("dart",)),
    "swift": Example("swift", "", needs=("swift",)),
}
RETRYING = [name for name, each in EXAMPLES.items() if "plain" in each.ways and isinstance(each.run, str) and each.run]


def built(name: str) -> Callable[..., str]:
    """Build an example, unless what is built is newer than its sources; give the function that runs it."""
    example = EXAMPLES[name]
    if missing := [tool for tool in example.needs if not shutil.which(tool)]:
        pytest.skip(f"NOT TESTED: {name}: no {', '.join(missing)} here")
    if not example.run:
        pytest.skip(f"NOT TESTED: {name} was written by hand and never run")
    folder = ROOT / "examples" / example.folder
    sources = (*folder.glob("*.*"), *folder.glob("src/**/*.*"), *ROOT.glob("proto/dermserve/v1/*.proto"))
    made = folder / example.built
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with portalocker.Lock(SCRATCH / f"{example.folder}.lock", timeout=SECONDS):  # CI builds them beside the first tests
        if not made.exists() or made.stat().st_mtime < max(file.stat().st_mtime for file in sources):
            shell(example.build, cwd=folder)
    run = functools.partial(shell, example.run) if isinstance(example.run, str) else example.run
    return functools.partial(run, cwd=folder)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    """The local stack with a TLS edge: the environment that leads to each."""
    folder = tmp_path_factory.mktemp("examples")
    store, certificate = store_of(folder / "store", exported(tmp_path_factory, MODEL)), make_certificate(folder)
    tls = {"tls_cert": certificate, "tls_key": certificate.with_suffix(".key")}
    with Stack(store=store, models=[MODEL], port=0, tfs_port=0, gateway_flags=["--reflection"]) as stack:
        gateway = stack.gateway_address
        settings = Settings(gateway=gateway, listen="127.0.0.1:0", requests_per_minute=60_000, burst=1_000, **tls)
        with Edge(settings, store=store) as edge:
            common = {"DERMSERVE_MODEL": MODEL, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            yield {
                "plain": common | {"DERMSERVE_SERVER": gateway},
                "TLS": common | {
                    "DERMSERVE_SERVER": edge.url.removeprefix("https://"), "DERMSERVE_URL": edge.url,
                    "DERMSERVE_CA": str(certificate), "DERMSERVE_PROTOSET": PROTOSET,
                },
            }  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_builds(name: str) -> None:
    built(name)


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, each in EXAMPLES.items() for way in each.ways])
def test_an_example_runs_on_the_real_servers(
    name: str, way: str, servers: dict[str, dict[str, str]], tmp_path: pathlib.Path
) -> None:
    run, photo = built(name), tmp_path / "photo.jpg"
    photo.write_bytes((DRAWN / "0.jpg").read_bytes())
    printed = run(str(photo), **servers[way])
    verdict = re.match(r"(?:VERDICT_)?(CONFIDENT|UNCERTAIN|REJECTED)\b", printed)
    assert verdict, f"the verdict does not come first:\n{printed}"
    assert "not a diagnosis" in printed
    assert "refused: UNSUPPORTED_FORMAT" in printed
    streamed = re.findall(r"^stream: .* (?:VERDICT_)?(\w+)$", printed, re.MULTILINE)
    if name not in {"curl", "python-backend"}:
        assert sorted(streamed) == sorted([verdict[1], "UNSUPPORTED_FORMAT"]), printed


@pytest.mark.parametrize("name", RETRYING)
def test_an_example_waits_as_long_as_an_overloaded_gateway_says(name: str, tmp_path: pathlib.Path) -> None:
    run, fake, asked = built(name), FakeGateway(), []
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"a photo")

    def classify(request, context):  # type: ignore[no-untyped-def]
        if request.image != b"a photo":
            abort(context, rich_status(code_pb2.INVALID_ARGUMENT, "no photo", reason="UNSUPPORTED_FORMAT"))
        asked.append(time.monotonic())
        if len(asked) == 1:
            status = rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=PAUSE)
            abort(context, status)
        return answer(request)

    fake.classify = classify
    with serving(fake) as port:
        printed = run(str(photo), DERMSERVE_SERVER=f"127.0.0.1:{port}", DERMSERVE_PROTOSET=PROTOSET)
    assert len(asked) in (2, 3)  # Python asks once more, for the photos that others send in a stream
    assert asked[1] - asked[0] >= PAUSE
    assert re.match("(VERDICT_)?UNCERTAIN", printed)
    assert "refused: UNSUPPORTED_FORMAT" in printed
