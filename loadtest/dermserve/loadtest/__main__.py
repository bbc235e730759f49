"""`dermserve-loadtest`, which is `python -m dermserve.loadtest`."""

import os
import signal


def main() -> None:
    """Run the command. While modules are imported, Ctrl-C ends it at once, without a traceback."""
    usual = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from dermserve.loadtest import cli  # takes a second

    signal.signal(signal.SIGINT, usual)
    cli.main(prog_name="dermserve-loadtest")


if __name__ == "__main__":
    main()
