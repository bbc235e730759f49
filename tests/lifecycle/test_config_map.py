"""On Kubernetes models.config is a ConfigMap, which pods read by themselves: commands change it, and wait for them."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sys

import pytest

from dermserve.models.lifecycle import moves, rollout
from dermserve.models.lifecycle.errors import LifecycleError, ServerError, StoreError
from dermserve.models.lifecycle.server_config import ConfigMap, Desk, ServerConfig
from dermserve.models.lifecycle.stores import entries
from tests.lifecycle.fake_servers import FakeServer, KilledError, SteppedStore, Steps
from tests.lifecycle.versions_at_hand import CONFIG, make_version, run


class _Map(ConfigMap):
    """A ConfigMap in memory, whose writes are steps."""

    data: dict[str, str]
    steps: Steps

    def read_text(self, name: str) -> str | None:
        return self.data.get(name)

    def write_text(self, name: str, text: str) -> None:
        self.steps.take(f"write {name}")
        self.data[name] = text


class _Pod(FakeServer):
    """A server that reads the ConfigMap whenever it is looked at, and refuses to be told."""

    config_map: _Map
    deaf = False

    def _read(self) -> None:
        if not self.deaf:
            super().reload(ServerConfig.parse(self.config_map.data["models.config"]).message())

    def reload(self, told: object) -> None:
        raise AssertionError("the ConfigMap would undo it")

    def available(self, model: str) -> set[int]:
        self._read()
        return super().available(model)

    def wait_available(self, model: str, versions: set[int], *, timeout: float) -> None:
        self._read()
        super().wait_available(model, versions, timeout=timeout)

    def wait_labels(self, model: str, labels: dict[str, int | None], *, timeout: float) -> None:
        self._read()
        if wrong := [label for label in labels if self.label(model, label) != labels[label]]:
            raise ServerError(f"{self.address} still has {wrong}")

    def wait_only(self, model: str, versions: set[int], *, timeout: float) -> None:
        self._read()
        super().wait_only(model, versions, timeout=timeout)


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Desk:
    return _desk(tmp_path)


def _desk(folder: pathlib.Path) -> Desk:
    """Version 1 is the stable one, of three."""
    store, held = SteppedStore(folder), _Map("dermserve", "models-config")
    object.__setattr__(held, "data", {"models.config": CONFIG})
    object.__setattr__(held, "steps", Steps())
    for version in (1, 2, 3):
        make_version(folder / "m" / str(version))
    pods = [_Pod(name, store, broken={3}) for name in ("first", "second")]
    for pod in pods:
        pod.config_map = held
        pod.loaded = {3 - 1}  # it followed the newest that loads
    desk = Desk(store=store, servers=pods, config_map=held)
    moves.promote(desk, "m", 1)
    return desk


def _state(desk: Desk) -> object:
    for server in desk.servers:
        server.available("m")
    config = desk.read_config()
    return ([(server.labels, server.loaded) for server in desk.servers], config.labels("m"), config.pins("m"),
            desk.read_shares())  # fmt: skip


def test_commands_change_the_config_map_and_its_canary_share_and_never_tell_a_server(desk: Desk) -> None:
    assert _state(desk) == ([({"stable": 1}, {1})] * 2, {"stable": 1}, [1], {})
    moves.canary(desk, "m", 2, share=0.05)
    both = {"stable": 1, "canary": 2}
    assert _state(desk) == ([(both, {1, 2})] * 2, both, [1, 2], {"m": 0.05})
    moves.promote(desk, "m", 2)
    assert _state(desk) == ([({"stable": 2}, {2})] * 2, {"stable": 2}, [2], {})
    moves.rollback(desk, "m")
    assert _state(desk)[1:3] == ({"stable": 1}, [1])


def test_a_version_that_does_not_load_and_pods_that_do_not_read_leave_the_config_map_as_it_was(desk: Desk) -> None:
    before = _state(desk)
    with pytest.raises(ServerError, match="can't load"):
        moves.promote(desk, "m", 3)
    assert _state(desk) == before
    list(desk.servers)[1].deaf = True
    with pytest.raises(ServerError, match="second can't load"):
        moves.promote(desk, "m", 2)
    list(desk.servers)[1].deaf = False
    assert _state(desk) == before
    assert rollout.pending(desk.store) is None


def test_a_failed_change_leaves_the_policy_that_a_hand_wrote(desk: Desk) -> None:
    desk.config_map.data["models.config"] = CONFIG.replace('/m" }', '/m" model_version_policy { all { } } }')
    before = desk.read_config().render()
    with pytest.raises(ServerError, match="can't load"):
        moves.promote(desk, "m", 3)
    assert desk.read_config().render() == before


def test_a_killed_command_is_undone_by_the_next_unless_it_was_logged(tmp_path: pathlib.Path) -> None:
    ends = []
    for count in range(1, 20):
        desk = _desk(tmp_path / str(count))
        moves.canary(desk, "m", 2, share=0.05)
        before, steps = _state(desk), Steps(count)
        desk.store.steps = steps
        object.__setattr__(desk.config_map, "steps", steps)
        with contextlib.suppress(KilledError):
            moves.promote(desk, "m", 2)
            break
        desk.store.steps = Steps()
        object.__setattr__(desk.config_map, "steps", Steps())
        rollout.recover(desk)
        ends.append(list(entries(desk.store))[-1]["what"] == "promote")
        after = ([({"stable": 2}, {2})] * 2, {"stable": 2}, [2], {})
        assert _state(desk) == (after if ends[-1] else before), steps.taken
        assert rollout.pending(desk.store) is None
    assert ends == sorted(ends)  # undone up to its line in the log
    assert len(set(ends)) == 2


@pytest.mark.parametrize("led", [True, False])
def test_what_a_killed_command_left_is_settled_only_by_one_with_the_same_list_of_models(desk: Desk, led: bool) -> None:
    desk.store.write_text("models.config", desk.read_config().render())
    ours, other = desk, dataclasses.replace(desk, config_map=None)
    if not led:
        ours, other = other, ours
        for server in desk.servers:
            server.reload = functools.partial(FakeServer.reload, server)
    ours.store.steps = Steps(1)
    with pytest.raises(KilledError):
        moves.canary(ours, "m", 2, share=0.05)
    ours.store.steps = Steps()
    with pytest.raises(LifecycleError, match="run one with the ConfigMap derm" if led else "run one without"):
        moves.promote(other, "m", 2)
    assert rollout.pending(desk.store) is not None
    moves.retire(ours, "m", keep=9)
    assert rollout.pending(desk.store) is None


KUBECTL = """#!{python}
import json, pathlib, sys
verb, kind, name, namespace, *flags = sys.argv[1:]
sys.stdout.reconfigure(encoding="utf-8")
held = pathlib.Path({file!r})
assert (kind, namespace) == ("configmap", "--namespace=dermserve")
if name != "models-config":
    sys.exit(f'Error from server (NotFound): configmaps "{{name}}" not found')
content = json.loads(held.read_text())
if verb == "patch":
    content["data"] |= json.loads(flags[-1].removeprefix("--patch="))["data"]
    held.write_text(json.dumps(content))
else:
    print(json.dumps(content, ensure_ascii=False))
"""


@pytest.fixture
def kubectl(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A kubectl that has one ConfigMap, in the file that this gives."""
    (tmp_path / "bin").mkdir()
    held = tmp_path / "held.json"
    held.write_text(json.dumps({"data": {"models.config": CONFIG, "other": "stays"}}))
    program = tmp_path / "bin" / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, file=str(held)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return held


def test_a_config_map_is_read_and_patched_by_kubectl(kubectl: pathlib.Path) -> None:
    held = ConfigMap("dermserve", "models-config")
    assert held.read_text("models.config") == CONFIG
    held.write_text("canary.toml", '[canary_shares]\n"m" = 0.05\n')
    assert json.loads(kubectl.read_text())["data"]["other"] == "stays"
    assert Desk(store=SteppedStore(kubectl.parent), servers=[], config_map=held).read_shares() == {"m": 0.05}
    assert held.read_text("none") is None
    with pytest.raises(
        StoreError, match=r'kubectl get failed: Error from server \(NotFound\): configmaps "x" not found'
    ):
        ConfigMap("dermserve", "x").read_text("models.config")


def test_a_config_map_is_utf_8_in_every_locale(kubectl: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: "ascii")
    held = ConfigMap("dermserve", "models-config")
    held.write_text("canary.toml", "# für später")
    assert held.read_text("canary.toml") == "# für später"


def test_without_kubectl_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    make_version(tmp_path / "m" / "1")
    done = run("promote", "m", store=tmp_path, config_map="dermserve/models-config", tfs="127.0.0.1:1")
    assert (done.exit_code, "ConfigMap dermserve/models-config needs kubectl" in done.output) == (1, True)
    done = run("promote", "m", config_map="models-config")
    assert (done.exit_code, "is not NAMESPACE/NAME" in done.output) == (2, True)
