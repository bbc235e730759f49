"""Build and run the examples that this machine has tools for (`make examples`), and judge what they print.

Each asks the gateway and, with TLS, the edge. Exit code 1 when one failed.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from dermserve.cli.root import ends_by_interrupt
from dermserve.edge import Settings
from dermserve.local import Stack, StackError
from dermserve.local.child import Child
from dermserve.local.edge import Edge
from dermserve.local.picture import drawn_lesion

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "examples"
MODEL = "mobilenet_v3_small"
PYTHON = sys.executable
_SITE = SCRATCH / "site"
_SECONDS = float(os.environ.get("EXAMPLES_SECONDS", "900"))  # for one command; Kotlin downloads a compiler
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out ca.pem "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)


class FailedError(StackError):
    """What an example, or what it needs, does wrong."""


@dataclass(frozen=True)
class Example:
    """One program in one language: shell commands in its folder, and the tools they need."""

    folder: str
    run: str | Callable[..., str]  # gets the photo as `$1`; empty: never run
    build: str = ":"
    built: str = ""  # what the build makes, below the folder; while it is newer than its sources, nothing is built
    needs: tuple[str, ...] = ()
    plain: bool = True  # whether it is run without TLS, too


def shell(command: str, *arguments: str, cwd: pathlib.Path, **environment: str) -> str:
    """Run a shell command and return what it printed on stdout."""
    path = f"{pathlib.Path(PYTHON).parent}:{SCRATCH / 'bin'}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command, "sh", *arguments], cwd=cwd, env={**os.environ, **environment, "PATH": path},
            capture_output=True, text=True, timeout=_SECONDS, check=True,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        raise FailedError(f"{error}\n{error.stdout or ''}{error.stderr or ''}"[-3000:]) from error
    return re.sub(r"\x1b\[\d*m", "", done.stdout)  # Maven's colours


def ask_backend(photo: str, **environment: str) -> str:
    """Run backend.py; return its answers for a photo and for something else, as the other examples print them."""
    command = [PYTHON, "-m", "uvicorn", f"--app-dir={ROOT / 'examples/python'}", "--port=0", "backend:app"]
    environment = {**environment, "PYTHONPATH": str(_SITE)}
    backend = Child(command, name="backend", log=lambda _: None, ready=re.compile(r"http://\S+"), env=environment)
    try:
        address = backend.wait_ready(timeout=60)[0]
        post = f'curl -sS --noproxy "*" -F "photo=@$1" {address}/check'
        answers = [shell(post, file, cwd=SCRATCH) for file in (photo, __file__)]
    finally:
        backend.stop(grace=20)
    try:
        answer, refusal = map(json.loads, answers)
        said = f"{answer['verdict']} {answer['level']} {' '.join(answer['reasons'])}\n{answer['notice']}\n"
        return f"{said}refused: {refusal['reason']}\n"
    except (KeyError, TypeError, ValueError) as error:
        raise FailedError(f"backend.py answers {' and '.join(answers)}") from error


_MAVEN = 'mvn -B -q exec:java -Dexec.args="$1"', "dermserve proto --out target/protos && mvn -B -q compile"
_NPM = "npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent generate && npm run --silent check"
_PIP = f"{PYTHON} -m pip install --quiet --disable-pip-version-check --upgrade --target {_SITE} -r requirements.txt"
_GO = f'PROTOC="{PYTHON} -m grpc_tools.protoc" go generate . && go vet . && go build -o gen/classify .'
_INSTALL_GRPCURL = (
    f"command -v grpcurl || GOBIN={SCRATCH}/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
)
_BIN = "../../build/examples/bin"
_STUBS = "gen/connect/dermserve/v1/classifier_pb.ts"
EXAMPLES = {
    "python": Example("python", f'{PYTHON} classify.py "$1"'),
    "python-async": Example("python", f'{PYTHON} classify_async.py "$1"'),
    "python-backend": Example("python", ask_backend, _PIP, "../../build/examples/site/uvicorn", ("curl",)),
    "go": Example("go", 'gen/classify "$1"', _GO, "gen/classify", ("go",)),
    "node": Example("node", 'npx tsx classify.ts "$1"', _NPM, _STUBS, ("node", "npm")),
    "connect": Example("node", 'npx tsx connect.ts "$1"', _NPM, _STUBS, ("node", "npm")),
    "java": Example("java", *_MAVEN, "target/classes/Classify.class", ("java", "mvn")),
    "kotlin": Example("kotlin", *_MAVEN, "target/classes/ClassifyKt.class", ("java", "mvn")),
    "curl": Example("curl", 'sh classify.sh "$1"', needs=("curl", "jq"), plain=False),
    "grpcurl": Example("grpcurl", 'sh classify.sh "$1"', _INSTALL_GRPCURL, f"{_BIN}/grpcurl", ("go", "jq")),
    "dart": Example("dart", "", needs=("dart",)),
    "swift": Example("swift", "", needs=("swift",)),
}


def judge(printed: str) -> str:
    """Check what an example printed: the verdict, which is returned, comes first."""
    verdict = re.match(r"(?:VERDICT_)?(CONFIDENT|UNCERTAIN|REJECTED)\b", printed)
    if not verdict:
        raise FailedError(f"the verdict does not come first:\n{printed}")
    for needed in ("not a diagnosis", "refused: UNSUPPORTED_FORMAT"):
        if needed not in printed:
            raise FailedError(f"{needed!r} is missing:\n{printed}")
    streamed = re.findall(r"^stream: .* (?:VERDICT_)?(\w+)$", printed, re.MULTILINE)
    if streamed and sorted(streamed) != sorted([verdict[1], "UNSUPPORTED_FORMAT"]):
        raise FailedError(f"the stream has other answers:\n{printed}")
    return verdict[1]


def build(example: Example) -> str:
    """Build an example, unless what is built is newer than its sources; say how long it took."""
    folder = ROOT / "examples" / example.folder
    sources = (*folder.glob("*.*"), *folder.glob("src/**/*.*"), *ROOT.glob("proto/dermserve/v1/*.proto"))
    built = folder / example.built
    if example.built and built.exists() and built.stat().st_mtime > max(file.stat().st_mtime for file in sources):
        return "built before"
    started = time.monotonic()
    shell(example.build, cwd=folder)
    return f"built in {time.monotonic() - started:.0f} s"


def try_example(name: str, photo: pathlib.Path, servers: dict[str, dict[str, str]]) -> str:
    """Build an example, and run it on each of the servers; return what to say of it."""
    example = EXAMPLES[name]
    if missing := [tool for tool in example.needs if not shutil.which(tool)]:
        return f"skipped: no {', '.join(missing)} here"
    if not example.run:
        return "skipped: written by hand, never run"
    folder, run = ROOT / "examples" / example.folder, example.run
    run = run if callable(run) else functools.partial(shell, run, cwd=folder)
    built = build(example)
    ways = [way for way in servers if example.plain or way != "plain"]
    if not servers:
        return built
    verdicts = {judge(run(str(photo), **servers[way])) for way in ways}
    return f"ran: {', '.join(verdicts)} ({' and '.join(ways)}; {built})"


@contextlib.contextmanager
def stack(store: pathlib.Path) -> Iterator[dict[str, dict[str, str]]]:
    """Run the local stack with a TLS edge; give the environment that leads to each."""
    shell(_CERTIFICATE, cwd=SCRATCH)
    shell("dermserve proto --out protos", cwd=SCRATCH)
    tls = {"tls_cert": SCRATCH / "ca.pem", "tls_key": SCRATCH / "key.pem"}
    flags, say = ["--reflection"], functools.partial(print, file=sys.stderr)
    with Stack(store=store, models=[MODEL], port=0, tfs_port=0, gateway_flags=flags, say=say) as servers:
        gateway = servers.gateway_address
        settings = Settings(gateway=gateway, listen="127.0.0.1:0", requests_per_minute=60_000, burst=1_000, **tls)
        with Edge(settings, store=store, say=say) as edge:
            common = {"DERMSERVE_MODEL": MODEL, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            yield {
                "plain": common | {"DERMSERVE_SERVER": gateway},
                "TLS": common | {"DERMSERVE_SERVER": edge.url.removeprefix("https://"), "DERMSERVE_URL": edge.url,
                        "DERMSERVE_CA": str(tls["tls_cert"]),
                        "DERMSERVE_PROTOSET": str(SCRATCH / "protos/dermserve.protoset")},
            }  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default=",".join(EXAMPLES), help="Names, separated by commas.")
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=SCRATCH / "store", help="What it lacks is exported."
)
@click.option("--build", "build_only", is_flag=True, help="Only build them, for later runs.")
def main(only: str, store: pathlib.Path, build_only: bool) -> None:
    """Build and run the examples that this machine has tools for, and judge what they print."""
    names = only.split(",")
    if strange := [name for name in names if name not in EXAMPLES]:
        raise click.UsageError(f"no example {', '.join(strange)}: there are {', '.join(EXAMPLES)}")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    photo = SCRATCH / "photo.jpg"
    photo.write_bytes(drawn_lesion())
    failed = False
    with ends_by_interrupt(), contextlib.nullcontext({}) if build_only else stack(store) as servers:
        for name in names:
            try:
                said = try_example(name, photo, servers)
            except StackError as error:
                failed, said = True, f"FAILED: {error}"
            click.echo(f"{name:15}{said}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
