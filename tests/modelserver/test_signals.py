"""Being asked to stop, wherever the process is at that moment."""

import signal
import subprocess
import sys

import pytest

BUSY = """
import ctypes, os, signal, threading
from dermserve.modelserver.__main__ import _stop_on_signals
read, write = os.pipe()
stop = _stop_on_signals()
"""


def run(script: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BUSY + script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_while_the_main_thread_waits_in_c(number: int) -> None:
    ended = run(f"""
threading.Thread(target=lambda: stop.wait() and os.write(write, b"."), daemon=True).start()
os.kill(os.getpid(), {int(number)})
ctypes.CDLL(None).read(read, ctypes.create_string_buffer(1), 1)
print(stop.is_set())
""")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number: int) -> None:
    ended = run(f"""
os.kill(os.getpid(), {int(number)})
stop.wait()
os.kill(os.getpid(), {int(number)})
ctypes.CDLL(None).read(read, ctypes.create_string_buffer(1), 1)
""")
    assert ended.returncode == 128 + number
