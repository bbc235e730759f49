"""What starts first stops last, and no ending leaves a process behind."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from dermserve.local import Stack, StackError
from dermserve.local.child import Child, no_proxy

PROGRAMS = pathlib.Path(__file__).with_name("programs.py")


@pytest.fixture
def store(tmp_path):
    """A store that looks complete."""
    folder = tmp_path / "store"
    (folder / "m" / "1").mkdir(parents=True)
    return folder


def make(store, *, modelserver="good", gateway="good", **options):
    modes = {"modelserver": modelserver, "gateway": gateway}
    return Stack(
        store=store,
        models=("m",),
        port=0,
        tfs_port=0,
        program=lambda name: (sys.executable, str(PROGRAMS), name, modes[name]),
        **options,
    )


def log(store, name):
    return (store.parent / "logs" / f"{name}.log").read_text().splitlines()


def running():
    """Our programs among the children of this process, which has those of other tests, too."""
    alive = [process for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in alive if str(PROGRAMS) in process.cmdline()]


def test_the_gateway_starts_last_and_stops_first(store):
    said = []
    with make(store, say=said.append) as stack:
        assert stack.tfs_address == "127.0.0.1:1"
        assert set(stack.pids) == {"modelserver", "gateway"}
        assert {process.pid for process in running()} == set(stack.pids.values())
    assert running() == []
    steps = [line.split(" at ")[0] for line in said]
    assert steps == [
        "starting the model server (m)", "model server ready", "gateway ready", "stopping the gateway",
        "stopping the modelserver",
    ]  # fmt: skip
    assert log(store, "modelserver")[-1] == log(store, "gateway")[-1] == "asked to stop"


def test_the_model_server_gets_its_flags(store):
    with make(store, owner=True):
        pass
    flags = log(store, "modelserver")[0]
    assert f"--model_config_file={store}/models.config" in flags
    assert "--port=0" in flags
    assert "--file_system_poll_wait_seconds=1" in flags


def test_a_store_that_is_served_is_refused_to_a_second_owner_naming_the_first(store):
    (store / "other" / "1").mkdir(parents=True)
    with make(store, owner=True):
        config = (store / "models.config").read_text()
        with pytest.raises(StackError, match=rf"served by another `dermserve up`, process {os.getpid()} since 20"):
            make(store, owner=True).__enter__()
        with make(store):  # `demo`, for one, has a list of its own
            assert log(store, "modelserver")[-1].startswith("Running")
        assert (store / "models.config").read_text() == config
        assert len(running()) == 2
    with make(store, owner=True):
        pass


def test_an_owner_that_is_killed_leaves_the_store_to_the_next(store):
    owning = f"with owned(pathlib.Path({str(store)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    script = f"import pathlib, os, signal; from dermserve.local.store import owned\n{owning}"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with make(store, owner=True):
        pass


def test_a_store_on_a_file_system_without_locks_is_named(store, monkeypatch):
    def unlockable(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("portalocker.portalocker.LOCKER", unlockable)
    with pytest.raises(StackError, match=f"can't write {store}: No locks available"):
        make(store, owner=True).__enter__()


def test_a_store_that_cannot_be_marked_as_served_is_named(store):
    (store / ".up").symlink_to("/dev/full")
    with pytest.raises(StackError, match=f"can't write {store}: "):
        make(store, owner=True).__enter__()


def test_logs_that_cannot_be_written_are_shown_instead(store, capsys):
    (store.parent / "logs").write_text("a file, where root could write into any folder")
    said = []
    with make(store, say=said.append):
        pass
    assert said[1].startswith(
        f"the modelserver's log is shown here: {store.parent}/logs/modelserver.log can't be written"
    )
    assert "[modelserver] asked to stop" in capsys.readouterr().err


def test_the_gateway_follows_the_stores_canary_share_unless_told_otherwise(store, monkeypatch):
    with make(store):
        pass
    monkeypatch.setenv("DERMSERVE_CANARY_FILE", "mine.toml")
    with make(store):
        pass
    said = [line for line in log(store, "gateway") if line.startswith("canary file")]
    assert said == [f"canary file {store}/canary.toml", "canary file mine.toml"]


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        ({"modelserver": "broken"}, "no version can be loaded"),
        ({"gateway": "broken"}, "wrong configuration"),
        ({"modelserver": "fleeting", "gateway": "unready"}, "modelserver ended with status 7"),
        ({"gateway": "unusable"}, r"m can't be served: version 1: an old card; delete .*store/m, or"),
    ],
)
def test_a_server_that_does_not_come_up_is_named_and_the_other_stopped(store, modes, words):
    with pytest.raises(StackError, match=words):
        make(store, **modes).__enter__()
    assert running() == []


def test_a_gateway_that_never_serves_has_its_last_log_line_shown_early_and_is_not_waited_for_for_ever(
    store, monkeypatch
):
    said, wait = [], Child.wait_ready

    def wait_once_it_listens(child, *needed, timeout, **how):
        assert timeout == 300
        if child.name != "gateway":
            return wait(child, timeout=timeout, **how)
        while not any(line.startswith("E0000") for line in [*child.last_lines]):  # which comes after the other lines
            threading.Event().wait(0.02)
        return wait(child, *needed, timeout=0.5, **how)

    monkeypatch.setattr(Child, "wait_ready", wait_once_it_listens)
    with pytest.raises(StackError, match=r"the gateway isn't ready after 0\.5 s"):
        make(store, gateway="unready", tell_after=0.1, ready_timeout=300, say=said.append).__enter__()
    told = [line for line in said if "the gateway isn't ready after 0.1 s; last log line: " in line]
    assert (len(told), "listening" in told[0]) == (1, True), said
    assert running() == []


@pytest.mark.parametrize("name", ["gateway", "modelserver"])
def test_a_server_that_dies_later_ends_the_wait(store, name):
    with make(store) as stack:
        os.kill(stack.pids[name], signal.SIGKILL)
        with pytest.raises(StackError, match=f"{name} was killed by signal 9"):
            stack.wait()
    assert running() == []


LAUNCHER = """
import pathlib, sys
from dermserve.local import Stack
from dermserve.local.cli import _serve
from dermserve.cli.root import ends_by_interrupt
store, programs = pathlib.Path(sys.argv[1]), sys.argv[2]
program = lambda name: (sys.executable, programs, name, sys.argv[3])
with ends_by_interrupt():
    _serve(Stack(store=store, models=("m",), port=0, tfs_port=0, say=print, program=program), "m", None)
"""


def launch(store, mode="good"):
    """Run `dermserve up`'s own loop over the stand-ins, as a process group of its own, as a terminal would."""
    command = [sys.executable, "-uc", LAUNCHER, str(store), str(PROGRAMS), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)


def wait_ready(up):
    """Read its lines up to the one that says it serves; fail with its errors when it ends before that."""
    for line in iter(up.stdout.readline, ""):
        if line.startswith("Ctrl-C"):
            return
    pytest.fail(up.stderr.read())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_stops_both_in_order(store, sent):
    with launch(store) as up:
        wait_ready(up)
        children = psutil.Process(up.pid).children()
        os.killpg(up.pid, sent)
        rest, errors = up.communicate(timeout=200)
    assert (up.returncode, errors) == (0, "")
    assert rest.splitlines() == ["stopping the gateway", "stopping the modelserver"]
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=100)[1] == []
    assert log(store, "modelserver")[-1] == log(store, "gateway")[-1] == "asked to stop"


def test_a_second_signal_does_not_wait(store):
    with launch(store, "stubborn") as up:
        wait_ready(up)
        children = psutil.Process(up.pid).children()
        os.killpg(up.pid, signal.SIGINT)
        while "not yet" not in log(store, "modelserver"):
            threading.Event().wait(0.02)
        os.killpg(up.pid, signal.SIGINT)
        up.communicate(timeout=200)
    assert not [line for line in log(store, "modelserver") if "did not stop within" in line]  # the grace was not over
    assert psutil.wait_procs(children, timeout=100)[1] == []


def test_a_child_that_dies_fails_the_launcher_with_its_last_log_lines(store):
    with launch(store) as up:
        wait_ready(up)
        children = psutil.Process(up.pid).children()
        next(child for child in children if "modelserver" in child.cmdline()).kill()
        _, errors = up.communicate(timeout=200)
    assert up.returncode != 0
    assert "the modelserver was killed by signal 9" in errors
    assert "Running gRPC ModelServer" in errors
    assert psutil.wait_procs(children, timeout=100)[1] == []


def test_the_gateway_gets_the_flags_it_is_given(store):
    with make(store, gateway_flags=["--reflection"]) as stack:
        assert "--reflection" in psutil.Process(stack.pids["gateway"]).cmdline()


def test_the_servers_speak_plain_text_whatever_tls_the_environment_has_for_others(store, monkeypatch):
    for name in ("DERMSERVE_TLS_CERTIFICATE", "DERMSERVE_TFS_TLS_CA", "DERMSERVE_QUEUE"):
        monkeypatch.setenv(name, "7")
    with make(store) as stack:
        names = psutil.Process(stack.pids["gateway"]).environ().keys()
        assert {name for name in names if name.startswith("DERMSERVE_")} >= {"DERMSERVE_QUEUE"}
        assert not [name for name in names if "TLS" in name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "a,b"}, "a,b,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a"}, "a,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*,127.0.0.1,localhost,::1"),
    ],
)
def test_children_reach_the_loopback_without_a_proxy_and_others_as_before(before, after):
    assert no_proxy(before) == {"no_proxy": after, "NO_PROXY": after}
