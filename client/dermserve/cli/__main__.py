"""`python -m dermserve.cli` is the command `dermserve`."""

from dermserve.cli import main

main()
