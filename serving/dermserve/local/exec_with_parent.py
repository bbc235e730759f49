"""Run `exec_with_parent.py PARENT_PID COMMAND...`: a command that the kernel kills when that process dies.

Linux only (PR_SET_PDEATHSIG, which survives exec). The kernel sends the signal when the parent's *thread* ends: start
children from a thread that lives as long as they should. A preexec function would be unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel for SIGKILL at the parent's death."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(parent: int, command: list[str]) -> None:
    """Exec the command, to end with the parent."""
    end_with_parent()
    if os.getppid() != parent:  # the parent died before prctl
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the launcher's own command line


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
