"""Build and run the examples that this machine has tools for, against the real servers, and judge what they print.

Run by `make examples`. Each example asks the gateway and, with TLS, the edge. Prints a line an example: ran, skipped
and why, or FAILED and why; exits with 1 when one failed. What is built goes to the examples' own ignored folders and
to build/examples.
"""

import argparse
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
from collections.abc import Iterator
from dataclasses import dataclass

from dermserve.local.picture import draw_lesion

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "examples"
MODEL = "mobilenet_v3_small"
PYTHON = sys.executable
_SITE = SCRATCH / "site"
_GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
_SECONDS = 900
"""For one command; the first build of Kotlin downloads a compiler."""
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out ca.pem "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)


class FailedError(Exception):
    """An example, or what it needs, does not do what it should."""


@dataclass(frozen=True)
class Example:
    """One program in one language."""

    folder: str
    run: str
    """Shell command, in its folder; the photo is its last argument."""
    build: str = ":"
    needs: tuple[str, ...] = ()
    plain: bool = True
    """Whether it is run without TLS, too."""


_MAVEN = {
    "needs": ("java", "mvn"),
    "build": "dermserve proto --out target/protos >/dev/null && mvn -B -q compile",
    "run": 'mvn -B -q exec:java -Dexec.args="$1"',
}
_NODE = {
    "folder": "node",
    "needs": ("node", "npm"),
    "build": "npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent generate >/dev/null && "
    "npm run --silent check",
}
EXAMPLES = {
    "python": Example("python", f'{PYTHON} classify.py "$1"'),
    "python-async": Example("python", f'{PYTHON} classify_async.py "$1"'),
    "python-backend": Example(
        "python",
        f'PYTHONPATH={_SITE} {PYTHON} {ROOT / "examples/run.py"} --backend "$1"',
        f"{PYTHON} -m pip install --quiet --disable-pip-version-check --upgrade --target {_SITE} -r requirements.txt",
        ("curl",),
    ),
    "go": Example(
        "go",
        'gen/classify "$1"',
        f'PROTOC="{PYTHON} -m grpc_tools.protoc" go generate . && go vet . && go build -o gen/classify .',
        ("go",),
    ),
    "node": Example(run='npx tsx classify.ts "$1"', **_NODE),
    "connect": Example(run='npx tsx connect.ts "$1"', **_NODE),
    "java": Example("java", **_MAVEN),
    "kotlin": Example("kotlin", **_MAVEN),
    "curl": Example("curl", 'sh classify.sh "$1"', needs=("curl", "jq"), plain=False),
    "grpcurl": Example(
        "grpcurl",
        'sh classify.sh "$1"',
        f"command -v grpcurl >/dev/null || GOBIN={SCRATCH}/bin go install {_GRPCURL}",
        ("go", "jq"),
    ),
}
UNTRIED = {"csharp": ("dotnet",), "dart": ("dart",), "swift": ("swift",)}
"""Written by hand and never run: what would be needed."""


def shell(command: str, *arguments: str, cwd: pathlib.Path, **environment: str) -> str:
    """Run a shell command and return what it printed on stdout.

    Raises:
        FailedError: it failed, or took too long.
    """
    path = f"{pathlib.Path(PYTHON).parent}:{SCRATCH / 'bin'}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command, "sh", *arguments], cwd=cwd, env={**os.environ, **environment, "PATH": path},
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"`{command}` took more than {_SECONDS} s") from error
    if done.returncode:
        raise FailedError(f"`{command}` ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return re.sub(r"\x1b\[\d*m", "", done.stdout)  # Maven's colours


def judge(printed: str) -> str:
    """Check what an example printed; return the verdict.

    Raises:
        FailedError: something is missing, or comes before the verdict.
    """
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


@functools.cache
def build(command: str, folder: pathlib.Path) -> None:
    """Run a build once, however many examples it is for."""
    shell(command, cwd=folder)


def try_example(example: Example, photo: pathlib.Path, servers: dict[str, dict[str, str]]) -> str:
    """Build and run an example in each way.

    Raises:
        FailedError: one of them failed.
    """
    folder, started = ROOT / "examples" / example.folder, time.monotonic()
    build(example.build, folder)
    built = time.monotonic() - started
    ways = [way for way in servers if example.plain or way != "plain"]
    verdicts = {judge(shell(example.run, str(photo), cwd=folder, **servers[way])) for way in ways}
    return f"{', '.join(verdicts)} ({' and '.join(ways)}; built in {built:.0f} s)"


@contextlib.contextmanager
def stack(store: pathlib.Path) -> Iterator[dict[str, dict[str, str]]]:
    """Run `dermserve up` with a TLS edge; give the environment that leads to each."""
    shell(_CERTIFICATE, cwd=SCRATCH)
    ca, key = SCRATCH / "ca.pem", SCRATCH / "key.pem"
    command = [
        *(
            pathlib.Path(PYTHON).with_name("dermserve"),
            "up",
            "--store",
            store,
            "--model",
            MODEL,
            "--reflection",
            "--edge",
        ),
        *("--port", "0", "--tfs-port", "0", "--edge-port", "0", "--edge-tls-cert", ca, "--edge-tls-key", key),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as up:
        try:
            printed = ""
            while "ready:" not in printed:
                line = up.stdout.readline() if up.stdout else ""
                if not line:
                    raise FailedError("`dermserve up` did not start: see above")
                printed += line
            gateway = re.search(r"--server (\S+)", printed)
            edge = re.search(r"https://(\S+)/app/", printed)
            assert gateway
            assert edge
            protoset = str(SCRATCH / "protos/dermserve.protoset")
            shell("dermserve proto --out protos", cwd=SCRATCH)
            common = {"DERMSERVE_MODEL": MODEL, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            yield {
                "plain": common | {"DERMSERVE_SERVER": gateway[1]},
                "TLS": common | {"DERMSERVE_SERVER": edge[1], "DERMSERVE_URL": f"https://{edge[1]}",
                        "DERMSERVE_CA": str(ca), "DERMSERVE_PROTOSET": protoset},
            }  # fmt: skip
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(30)


def ask_backend(photo: str) -> None:
    """Run backend.py and print its answers for a photo and for something else, as the other examples do."""
    command = [PYTHON, "-m", "uvicorn", "--port", "0", "--no-access-log", "backend:app"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(found[0] for line in server.stderr or () if (found := re.search(r"http://\S+", line)))
            post = f'curl -sS --noproxy "*" -F "photo=@$1" {address}/check'
            answer = json.loads(shell(post, photo, cwd=SCRATCH))
            print(answer["verdict"], answer["level"], *answer["reasons"])
            print(answer["notice"])
            print("refused:", json.loads(shell(post, __file__, cwd=SCRATCH))["reason"])
        finally:
            server.send_signal(signal.SIGTERM)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names, separated by commas", default=",".join([*EXAMPLES, *UNTRIED]))
    parser.add_argument("--store", type=pathlib.Path, default=SCRATCH / "store", help="built when it has no model")
    parser.add_argument("--backend", metavar="PHOTO", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.backend:
        ask_backend(chosen.backend)
        return 0
    names = chosen.only.split(",")
    if strange := set(names) - {*EXAMPLES, *UNTRIED}:
        parser.error(f"no example {', '.join(strange)}: there are {', '.join([*EXAMPLES, *UNTRIED])}")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    photo = SCRATCH / "photo.jpg"
    photo.write_bytes(draw_lesion())
    failed = 0
    with stack(chosen.store) as servers:
        for name in names:
            needs = EXAMPLES[name].needs if name in EXAMPLES else UNTRIED[name]
            if missing := [tool for tool in needs if not shutil.which(tool)]:
                said = f"skipped: no {', '.join(missing)} here"
            elif name in UNTRIED:
                said = "skipped: written by hand, never run"
            else:
                try:
                    said = f"ran: {try_example(EXAMPLES[name], photo, servers)}"
                except FailedError as error:
                    failed, said = failed + 1, f"FAILED: {error}"
            print(f"{name:15}{said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
