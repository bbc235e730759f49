"""Exit codes that scripts can rely on."""

from enum import IntEnum


class Exit(IntEnum):
    """What the command's exit code says."""

    ANSWERED = 0
    """Everything asked for was answered."""
    FAILED = 1
    """Some or all of it failed."""
    USAGE = 2
    """The command line is wrong; nothing was asked. Click's own code for it."""
    NO_SERVER = 3
    """No gateway answers, or no model server answers it: try again later."""
    NOT_GOOD_ENOUGH = 4
    """A version does not meet what is required of it, or did not do well as a canary."""
    INTERRUPTED = 130
    """Ctrl-C, as shells have it: 128 + SIGINT."""
    PIPE_CLOSED = 141
    """Whoever read the output has gone, as shells have it: 128 + SIGPIPE."""
