"""`dermserve-loadtest`, which is `python -m dermserve.loadtest`."""

try:
    from dermserve.loadtest.cli import main
except KeyboardInterrupt:  # Ctrl-C while modules are imported: as later, without a traceback
    raise SystemExit(130) from None
except ModuleNotFoundError as error:
    if (error.name or "dermserve").startswith("dermserve"):
        raise
    raise SystemExit(
        f"Error: `dermserve-loadtest` needs more than the bare install (missing: {error.name}):"
        " give pip the extra [loadtest], for example pip install '.[loadtest]' in a clone"
    ) from error

if __name__ == "__main__":
    main(prog_name="dermserve-loadtest")
