"""The examples of clients: without a build on the real servers, and on a gateway that is overloaded at first."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import portalocker
import pytest
from google.rpc import code_pb2

from examples import run
from tests.client.fake_gateway import FakeGateway, abort, answer, rich_status, serving
from tests.conftest import exported, store_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(780)]  # `ran` downloads compilers where there are none
PAUSE = 0.4
NAMES = tuple(run.EXAMPLES)
RETRYING = [name for name, each in run.EXAMPLES.items() if each.plain and isinstance(each.run, str)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each, until one has taken too long: what it says goes to files, as it may leave children."""
    folder = tmp_path_factory.mktemp("examples")
    store = store_of(folder / "store", exported(tmp_path_factory, run.MODEL))
    command = [sys.executable, run.ROOT / "examples/run.py", "--store", store]
    (run.ROOT / "build").mkdir(exist_ok=True)
    with (
        portalocker.Lock(run.ROOT / "build/examples.lock", timeout=240),  # CI compiles them beside the first tests
        (folder / "out").open("w") as out, (folder / "err").open("w") as err,
        subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "EXAMPLES_SECONDS": "150"}) as process,
    ):  # fmt: skip
        try:
            process.wait(400)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it ends what it started
            process.wait(60)
        finally:
            process.kill()
    lines = (folder / "out").read_text().splitlines()
    said = {line.split()[0]: line for line in lines if line.startswith(NAMES)}
    return said | {"": (folder / "err").read_text()}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_on_the_real_servers(name: str, ran: dict[str, str]) -> None:
    if "skipped" in ran.get(name, ""):
        pytest.skip(f"NOT TESTED: {ran[name]}")
    assert re.match(rf"{name} +ran: ", ran.get(name, "")), [ran.get(name), ran[""][-2000:]]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("name", RETRYING)
def test_an_example_waits_as_long_as_an_overloaded_gateway_says(name: str, tmp_path: pathlib.Path) -> None:
    example = run.EXAMPLES[name]
    folder = run.ROOT / "examples" / example.folder
    if not example.run or not (folder / example.built).exists():
        pytest.skip(f"NOT TESTED: {name} is not built here")
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
        printed = run.shell(example.run, str(photo), cwd=folder, **environment)
    assert len(asked) in (2, 3)  # Python asks once more, for the photos that others send in a stream
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
