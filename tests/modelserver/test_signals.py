"""Being asked to stop, wherever the process is at that moment."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from dermserve.modelserver._signals import Stop, stop_signals


def test_what_is_to_be_done_is_done_once_asked_and_at_once_when_it_comes_late() -> None:
    stop, done = Stop(), []
    stop.then(lambda: done.append("early"))
    assert (stop.asked.is_set(), done) == (False, [])
    stop.ask()
    stop.then(lambda: done.append("late"))
    assert (stop.asked.is_set(), done) == (True, ["early", "late"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_while_the_main_thread_waits_in_c_and_takes_no_handlers(number: int) -> None:
    """The main thread waits where Python can run no handler; the wait is let go by the thread that takes the signal."""
    script = f"""
import ctypes, os, signal
from dermserve.modelserver._signals import stop_signals
read, write = os.pipe()
with stop_signals() as stop:
    stop.then(lambda: os.write(write, b"."))
    os.kill(os.getpid(), {int(number)})
    ctypes.CDLL(None).read(read, ctypes.create_string_buffer(1), 1)
    print(stop.asked.is_set())
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_afterwards_signals_are_taken_as_before() -> None:
    before = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked.wait(30)
    assert before == [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    assert signal.set_wakeup_fd(-1) == -1
    assert "signals" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number: int) -> None:
    """The main thread is told of the first one, and is then busy where nothing can interrupt it."""
    script = f"""
import ctypes, os, signal
from dermserve.modelserver._signals import stop_signals
read, write = os.pipe()
with stop_signals() as stop:
    os.kill(os.getpid(), {int(number)})
    stop.asked.wait()
    os.kill(os.getpid(), {int(number)})
    ctypes.CDLL(None).read(read, ctypes.create_string_buffer(1), 1)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == 128 + number
