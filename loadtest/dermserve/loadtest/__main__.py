"""`python -m dermserve.loadtest`, the same as `dermserve-loadtest`."""

from dermserve.loadtest.cli import main

if __name__ == "__main__":
    main(prog_name="dermserve-loadtest")
