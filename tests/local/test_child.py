"""Child processes are watched, logged and ended, whatever they or their launcher do."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from dermserve.local import StackError, exec_with_parent
from dermserve.local.child import Child

READY = re.compile(r"ready at (\S+)")
# Short sleeps: a signal that comes just before a sleep is handled by Python after it.
_FOREVER = "[time.sleep(0.05) for _ in iter(int, 1)]"
SERVER = f"import time, sys; print('starting'); print('ready at here'); {_FOREVER}"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SERVER


def start(code, *, lines=None, ready=READY, **options):
    log = (lambda line: None) if lines is None else lines.append
    return Child([sys.executable, "-uc", code], name="server", log=log, ready=ready, **options)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_its_ready_line_is_waited_for_and_its_lines_are_logged():
    lines = []
    child = start(SERVER, lines=lines)
    assert child.wait_ready(timeout=100)[1] == "here"
    child.stop(grace=100)
    assert lines == ["starting", "ready at here"]
    assert gone(child.pid)


def test_it_gets_variables_beside_the_launchers_own(monkeypatch):
    monkeypatch.setenv("OUTER", "1")
    child = start("import os; print('ready at', os.environ['OUTER'] + os.environ['INNER'])", env={"INNER": "2"})
    assert child.wait_ready(timeout=100)[1] == "12"
    child.stop(grace=100)


@pytest.mark.parametrize("fault", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_its_end_is_seen_although_its_log_goes_nowhere_any_more(fault):
    class Closed(list):
        def append(self, line):
            raise fault

    child = start("print('ready at here'); print('bye')", lines=Closed())
    assert child.wait_ready(timeout=100)[1] == "here"
    assert child.wait() == 0


def test_dying_before_ready_shows_its_last_words():
    child = start("import sys; print('no such model'); sys.exit(3)")
    with pytest.raises(StackError, match="server ended with status 3") as caught:
        child.wait_ready(timeout=100)
    assert "  no such model" in str(caught.value)
    child.stop(grace=100)


def test_a_death_by_signal_is_called_that():
    child = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    child.wait()
    assert "killed by signal 9" in str(child.died())
    assert "logged nothing" in str(child.died())
    child.stop(grace=100)


def test_never_ready_is_told_from_dead():
    child = start("import time; print('loading'); time.sleep(600)")
    with pytest.raises(StackError, match="isn't ready after"):
        child.wait_ready(timeout=0.2)
    assert child.died() is None
    child.stop(grace=100)


def test_it_is_asked_first():
    lines = []
    polite = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)));" + SERVER
    child = start(polite, lines=lines)
    child.wait_ready(timeout=100)
    child.stop(grace=100)
    assert lines[-1] == "bye"


def test_it_may_be_asked_as_ctrl_c_asks():
    lines = []
    tidy = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    tidy += f"try: print('ready at here'); {_FOREVER}\nexcept KeyboardInterrupt: print('tidied up')"
    child = start(tidy, lines=lines, asking=signal.SIGINT)
    child.wait_ready(timeout=100)
    child.stop(grace=100)
    assert lines[-1] == "tidied up"


def test_one_that_ignores_the_question_is_killed():
    lines = []
    child = start(STUBBORN, lines=lines)
    child.wait_ready(timeout=100)
    child.stop(grace=0.2)
    assert gone(child.pid)
    assert "did not stop within 0.2 s" in lines[-1]


def test_its_own_children_go_with_it_when_it_is_killed():
    family = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);" + STUBBORN
    )
    child = start(family)
    child.wait_ready(timeout=100)
    (grandchild,) = psutil.Process(child.pid).children()
    child.stop(grace=0.1)
    grandchild.wait(timeout=100)
    assert gone(grandchild.pid)


def test_it_is_out_of_reach_of_ctrl_c():
    child = start(SERVER)
    child.wait_ready(timeout=100)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert os.getsid(child.pid) == child.pid
    child.stop(grace=100)


def test_stopping_twice_or_after_its_death_is_fine():
    child = start("pass")
    child.wait()
    child.stop(grace=100)
    child.stop(grace=100)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG, which Linux alone has")
def test_a_launcher_that_is_killed_leaves_no_orphan():
    launcher = f"""
import sys, time
from dermserve.local.child import Child
child = Child([sys.executable, "-uc", {STUBBORN!r}], name="server", log=lambda line: print(line, flush=True))
print("pid", child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        pid = int(next(line for line in lines if line.startswith("pid"))[4:])
        child = psutil.Process(pid)
        process.send_signal(signal.SIGKILL)
    child.wait(timeout=100)
    assert gone(pid)


def test_a_launcher_that_died_first_starts_nothing():
    command = [sys.executable, exec_with_parent.__file__, "0", sys.executable, "-c", "print('started')"]
    done = subprocess.run(command, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
