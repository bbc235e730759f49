"""The examples of clients: without a build on the real servers, and on a gateway that is overloaded at first."""

import pathlib
import re
import subprocess
import sys
import time

import pytest
from google.rpc import code_pb2

from examples import run
from tests.client.fake_gateway import FakeGateway, abort, answer, rich_status, serving

pytestmark = pytest.mark.slow
QUICK = ("python", "python-async", "curl", "node", "connect", "go", "grpcurl")
"""Built in less than a minute, once Go has compiled what they import; `make examples` runs all."""
BUILT = {
    "python": "python/classify.py",
    "python-async": "python/classify_async.py",
    "node": "node/gen/grpc/classifier.ts",
    "connect": "node/gen/connect/dermserve/v1/classifier_pb.ts",
    "grpcurl": "../build/examples/bin/grpcurl",
    "go": "go/gen/classify",
    "java": "java/target/classes/Classify.class",
    "kotlin": "kotlin/target/classes/ClassifyKt.class",
}
"""What is there once an example can be run."""
PAUSE = 0.4


@pytest.fixture(scope="module")
def ran() -> dict[str, str]:
    """What is said of each."""
    command = [sys.executable, run.ROOT / "examples/run.py", "--only", ",".join(QUICK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    return {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith(QUICK)} | {"": done.stderr}


@pytest.mark.parametrize("name", run.EXAMPLES)
def test_an_example_runs_on_the_real_servers(name: str, ran: dict[str, str]) -> None:
    if name not in QUICK:
        pytest.skip(f"NOT TESTED: {name}: its build takes too long, or there are no tools for it: make examples")
    if "skipped" in ran.get(name, ""):
        pytest.skip(f"NOT TESTED: {ran[name]}")
    assert re.match(rf"{name} +ran: ", ran.get(name, "")), [ran.get(name), ran[""][-2000:]]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("name", BUILT)
def test_an_example_waits_as_long_as_an_overloaded_gateway_says(name: str, tmp_path: pathlib.Path) -> None:
    if not (run.ROOT / "examples" / BUILT[name]).exists():
        pytest.skip(f"NOT TESTED: make examples EXAMPLES={name} builds it")
    fake, asked = FakeGateway(), []
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
    run.shell(f"dermserve proto --out {tmp_path}/protos", cwd=tmp_path)
    with serving(fake) as port:
        environment = {
            "DERMSERVE_SERVER": f"127.0.0.1:{port}",
            "DERMSERVE_PROTOSET": f"{tmp_path}/protos/dermserve.protoset",
        }
        printed = run.shell(run.EXAMPLES[name].run, str(photo), cwd=run.ROOT / "examples" / run.EXAMPLES[name].folder,
                            **environment)  # fmt: skip
    assert len(asked) == 2
    assert asked[1] - asked[0] >= PAUSE
    assert re.match("(VERDICT_)?UNCERTAIN", printed)
    assert "refused: UNSUPPORTED_FORMAT" in printed


def test_what_an_example_prints_is_judged() -> None:
    good = "CONFIDENT LOW\nScreening aid, not a diagnosis\nrefused: UNSUPPORTED_FORMAT\n"
    assert run.judge(good) == "CONFIDENT"
    for wrong in (
        "nevus 93 %\n" + good,
        good.replace("not a diagnosis", ""),
        good.replace("UNSUPPORTED", "UNKNOWN"),
        good + "stream: 0 CONFIDENT\n",
    ):
        with pytest.raises(run.FailedError):
            run.judge(wrong)


@pytest.mark.parametrize("said", ["<html>", "[]", "{}", '{"verdict": 1, "level": 2, "reasons": null}'])
def test_a_backend_that_answers_badly_fails_alone(said: str, tmp_path: pathlib.Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    server = tmp_path / "python"
    server.write_text("#!/bin/sh\necho on http://127.0.0.1:1 >&2\nexec sleep 60\n")
    server.chmod(0o755)
    monkeypatch.setattr(run, "PYTHON", str(server))
    monkeypatch.setattr(run, "shell", lambda *_, **__: said)
    with pytest.raises(run.FailedError, match=re.escape(f"backend.py answers {said}")):
        run.ask_backend("photo.jpg")
