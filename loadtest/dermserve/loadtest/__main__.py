"""`dermserve-loadtest`, which is `python -m dermserve.loadtest`."""

import os
import signal


def main() -> None:
    """Run the command; Ctrl-C ends it at once, and without a traceback, while modules are imported."""
    usual = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from dermserve.loadtest import cli  # takes a second

    signal.signal(signal.SIGINT, usual)
    cli.main()


if __name__ == "__main__":
    main()
