"""`dermserve-loadtest`, which is `python -m dermserve.loadtest`."""

try:
    from dermserve.loadtest.cli import main
except KeyboardInterrupt:  # Ctrl-C while modules are imported: as later, without a traceback
    raise SystemExit(130) from None

if __name__ == "__main__":
    main(prog_name="dermserve-loadtest")
