"""Versions moved on two real model servers, by the commands that users run."""

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import Result

from dermserve.local.store import write_config
from dermserve.models.lifecycle.manifest import read_records
from dermserve.models.lifecycle.stores import manifest_of, open_store
from tests.lifecycle.versions_at_hand import MODEL, model_server, records, republish, run, shares
from tests.modelserver.server_process import Caller, ServerProcess, wait_until


@dataclass
class World:
    store: pathlib.Path
    servers: list[ServerProcess]

    def run(self, *arguments: str, tfs: list[str] | None = None) -> Result:
        where = [f"--store={self.store}"]
        if arguments[0] not in {"list", "log", "publish", "pull"}:
            where += [f"--tfs={address}" for address in tfs or self.addresses]
        return run(*arguments, *where)

    def moved(self, *arguments: str) -> dict[str, int]:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["to"]["labels"]

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    def loaded(self) -> list[set[int]]:
        return [_loaded(address) for address in self.addresses]

    def labels(self) -> list[dict[str, int]]:
        rows = map(json.loads, self.run("status", "--json").stdout.splitlines())
        return [row["labels"] for row in rows]

    def log(self) -> list[tuple[str, object, object]]:
        rows = [json.loads(line) for line in self.run("log", "--json").stdout.splitlines()]
        ends = [(row["from"], row["to"]) for row in rows]
        return [(row["what"], *(end["labels"] if isinstance(end, dict) else end for end in both))
                for row, both in zip(rows, ends, strict=True)]  # fmt: skip


def _loaded(address: str) -> set[int]:
    with Caller(address) as caller:
        return {version for version, state in caller.states(MODEL).items() if state == "AVAILABLE"}


@pytest.fixture(scope="module")
def served(small_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A store with version 1, and two servers on it: starting one takes longer than most tests."""
    store = tmp_path_factory.mktemp("served") / "store"
    shutil.copytree(small_store / MODEL / "1", store / MODEL / "1")
    write_config(store, [MODEL])
    with contextlib.ExitStack() as stack:
        yield World(store, [stack.enter_context(model_server(store)) for _ in range(2)])


@pytest.fixture
def world(served: World) -> Iterator[World]:
    """The store and its servers, which are as they were at first once a test has ended."""
    yield served
    for path in {*served.store.iterdir(), *(served.store / MODEL).iterdir()} - {served.store / MODEL}:
        if path.is_dir() and path.name != "1":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    write_config(served.store, [MODEL])
    for address in served.addresses:
        with Caller(address) as caller:
            model = {"name": MODEL, "base_path": str(served.store / MODEL), "model_platform": "tensorflow"}
            assert caller.reload(model).code == "OK"
    wait_until(lambda: served.loaded() == [{1}, {1}])


def test_a_life_from_publish_to_retire(world: World) -> None:
    assert world.moved("promote", MODEL, "1") == {"stable": 1}
    assert republish(world.store) == 2
    assert world.loaded() == [{1}, {1}]  # pinned: what is published waits for its promotion
    assert world.moved("canary", MODEL, "--share", "5%") == {"stable": 1, "canary": 2}
    assert world.loaded() == [{1, 2}, {1, 2}]
    assert shares(world.store) == {MODEL: 0.05}
    assert world.moved("canary", MODEL, "--off") == {"stable": 1}
    assert (world.loaded(), shares(world.store)) == ([{1}, {1}], {})
    assert world.moved("canary", MODEL, "--share", "5%") == {"stable": 1, "canary": 2}
    assert world.moved("promote", MODEL) == {"stable": 2}
    assert (world.loaded(), world.labels()) == ([{2}, {2}], [{"stable": 2}] * 2)
    assert shares(world.store) == {}
    assert world.moved("rollback", MODEL) == {"stable": 1}
    assert (world.loaded(), world.labels()) == ([{1}, {1}], [{"stable": 1}] * 2)
    for _ in range(3):
        republish(world.store)
    gone = json.loads(world.run("retire", MODEL, "--keep", "2", "--json").stdout)
    assert (gone["retired"], gone["left"]) == ([2, 3], [1, 4, 5])  # the stable one stays, however old
    assert world.log() == [
        ("promote", {}, {"stable": 1}),
        ("canary", {"stable": 1}, {"stable": 1, "canary": 2}),
        ("canary", {"stable": 1, "canary": 2}, {"stable": 1}),
        ("canary", {"stable": 1}, {"stable": 1, "canary": 2}),
        ("promote", {"stable": 1, "canary": 2}, {"stable": 2}),
        ("rollback", {"stable": 2}, {"stable": 1}),
        ("retire", 2, None),
        ("retire", 3, None),
    ]
    assert "promote  mobilenet_v3_small  canary 2, stable 1 (0.05) → stable 2\n" in world.run("log").stdout


def test_a_restarted_server_comes_back_with_its_labels(world: World) -> None:
    world.moved("promote", MODEL, "1")  # else servers would unload it for the newest version
    republish(world.store)
    world.moved("canary", MODEL, "2", "--share", "0.5")
    write_config(world.store, [MODEL])  # as `dermserve up` does at each start
    with model_server(world.store) as restarted:
        # The server takes calls while it still loads the second version.
        wait_until(lambda: world.run("status", "--json", tfs=[restarted.address]).exit_code == 0)
        status = world.run("status", "--json", tfs=[restarted.address])
        assert json.loads(status.stdout)["labels"] == {"stable": 1, "canary": 2}


def test_a_broken_version_is_never_promoted_and_changes_nothing(world: World) -> None:
    world.moved("promote", MODEL, "1")
    before = (world.store / "models.config").read_text()
    version = republish(world.store)
    (world.store / MODEL / str(version) / "saved_model.pb").write_bytes(b"broken")
    done = world.run("promote", MODEL)
    assert done.exit_code == 1
    assert f"can't load version {version} of {MODEL}" in done.output
    assert (world.labels(), (world.store / "models.config").read_text()) == ([{"stable": 1}] * 2, before)
    assert world.log() == [("promote", {}, {"stable": 1})]


def test_what_a_killed_command_began_is_settled_by_the_next(world: World) -> None:
    world.moved("promote", MODEL, "1")
    republish(world.store)
    where = [f"--store={world.store}", *(f"--tfs={address}" for address in world.addresses)]
    held = "servers.Server.wait_available = lambda *_, **__: time.sleep(1000)"  # it does not get on while we look
    program = (
        f"import time; from dermserve.models.lifecycle import servers; {held}; from dermserve.cli import main; main()"
    )
    with subprocess.Popen([sys.executable, "-c", program, "model", "promote", MODEL, *where]) as command:
        wait_until((world.store / "intent.json").exists)
        command.kill()
    assert "half done, the next command undoes it: promote of" in world.run("status").stderr
    assert "an earlier command left half done" in world.run("retire", MODEL, "--keep", "9").stderr
    assert (world.labels(), world.loaded()) == ([{"stable": 1}] * 2, [{1}] * 2)
    assert world.log() == [("promote", {}, {"stable": 1})]
    assert not (world.store / "intent.json").exists()


def test_a_dead_server_is_noticed_before_anything_changes(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        done = world.run("promote", MODEL, "1", tfs=[*world.addresses, dead])
    assert done.exit_code == 3
    assert f"{dead} does not answer" in done.output
    assert world.labels() == [{}, {}]
    assert world.log() == []


def test_verify_finds_what_is_served_as_it_was_exported(world: World) -> None:
    done = world.run("verify", MODEL, "--json")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    asked = [row["what"] for row in rows if row["server"] == world.addresses[0]]
    assert [what.split(",")[0] for what in asked] == [
        *("warm-up: serving_default", "warm-up: serving_default"),
        *("warm-up: encoded", "warm-up: tta", "warm-up: describe"),
        *("golden: serving_default", "golden: encoded", "golden: tta", "golden: describe"),
    ]
    assert len(rows) == 1 + 2 * len(asked)


def test_verify_notices_answers_and_files_that_are_not_what_was_exported(world: World) -> None:
    version = republish(world.store)
    golden = world.store / MODEL / str(version) / "assets.extra" / "golden_predictions"
    golden.write_bytes(_with_other_answers(golden.read_bytes()))
    wait_until(lambda: world.loaded() == [{version}] * 2)
    done = world.run("verify", MODEL, str(version))
    assert done.exit_code == 1
    assert "golden_predictions was changed" in done.output
    assert "golden: serving_default, 2 images: probabilities differs by" in done.output


def _with_other_answers(data: bytes) -> bytes:
    """The same records, whose probabilities are off by a tenth."""
    changed = []
    for record in read_records(data, where="here"):
        if "probabilities" in record.response.outputs:
            tensor = record.response.outputs["probabilities"]
            values = np.frombuffer(tensor.tensor_content, "<f4") + np.float32(0.1)
            tensor.tensor_content = values.tobytes()
        changed.append(record)
    return records(changed)


def test_verify_says_when_a_version_is_not_loaded(world: World) -> None:
    world.moved("promote", MODEL, "1")
    folder = world.store / MODEL / str(republish(world.store))
    folder.rename(folder.with_name("99"))  # the servers have had a version 2 in other tests
    done = world.run("verify", MODEL, "99")
    assert done.exit_code == 1
    assert "not known to this server: promote it first, or canary it" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["promote", MODEL, "9"], 1, "no version 9 of mobilenet_v3_small: it has 1"),
        (["promote", "vgg"], 1, "no version of vgg; it has mobilenet_v3_small"),
        (["rollback", MODEL], 1, "no stable version to roll back from"),
        (["canary", MODEL, "--share", "5%"], 1, "no stable version for the other callers"),
        (["canary", MODEL, "--off"], 1, "has no canary"),
        (["canary", MODEL], 2, "--share SHARE to begin a canary, or --off alone"),
        (["canary", MODEL, "--share", "150%"], 2, "between 0% and 100%"),
        (["canary", MODEL, "--share", "much"], 2, "write 5% or 0.05"),
        (["retire", MODEL, "--keep", "0"], 2, "--keep"),
        (["verify", MODEL, "7"], 1, "no version 7"),
        (["retire", f"../store/{MODEL}", "--keep", "1"], 2, "is not the name of a model"),
        (["retire", f"{MODEL}/../{MODEL}", "--keep", "1"], 2, "is not the name of a model"),
        (["retire", "/", "--keep", "1"], 2, "is not the name of a model"),
        (["verify", "."], 2, "is not the name of a model"),
        (["rollback", ""], 2, "is not the name of a model"),
    ],
)
def test_what_cannot_be_done_says_why(fresh_store: pathlib.Path, arguments: list[str], code: int, words: str) -> None:
    write_config(fresh_store, [MODEL])
    done = World(fresh_store, []).run(*arguments, tfs=["127.0.0.1:1"])
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())


def test_list_shows_labels_pins_and_digests(fresh_store: pathlib.Path) -> None:
    write_config(fresh_store, [MODEL])
    config = (fresh_store / "models.config").read_text()
    pinned = 'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 }'
    (fresh_store / "models.config").write_text(config.replace('"tensorflow"', f'"tensorflow" {pinned}'))
    row = json.loads(World(fresh_store, []).run("list", "--json").stdout)
    assert (row["version"], row["labels"], row["pinned"]) == (1, ["stable"], True)
    assert row["digest"] == manifest_of(open_store(fresh_store), MODEL, 1).digest
    assert row["about"]["training"] == "NONE"


def test_a_store_without_versions_is_named(tmp_path: pathlib.Path) -> None:
    listed = World(tmp_path / "nowhere", []).run("list", "--json")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert listed.stderr == f"{tmp_path}/nowhere has no versions\n"
