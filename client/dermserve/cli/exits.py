"""Exit codes that scripts can rely on."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command."""

    ANSWERED = 0
    """Every photo or request was answered."""
    FAILED = 1
    """Some or all of it failed."""
    USAGE = 2
    """The command line is wrong; no request was sent. Click's own code."""
    NO_SERVER = 3
    """No gateway answers, or no model server answers it: try again later."""
    NOT_GOOD_ENOUGH = 4
    """A version does not meet what is required of it, or did not do well as a canary."""
    INTERRUPTED = 130
    """Ctrl-C, as shells have it: 128 + SIGINT."""
    PIPE_CLOSED = 141
    """Whoever read the output has gone, as shells have it: 128 + SIGPIPE."""
