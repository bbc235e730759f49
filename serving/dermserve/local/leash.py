"""Becomes the command it is given, tied to the process that started it: when that one dies, however, so does this.

Run as a script, `python leash.py PARENT_PID COMMAND...`, and not as a preexec function, which is unsafe in a process
with threads. Linux only: PR_SET_PDEATHSIG survives exec. On other systems a launcher killed with
SIGKILL leaves its children running; every other end stops them.

The kernel ties it to the parent's *thread*: start children from one that lives as long as they should.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the launcher's own command line


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
