"""Write the log lines of child processes to a file each, or to stderr."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator

_LARGE = 10_000_000


@contextlib.contextmanager
def child_log(path: pathlib.Path, *, verbose: bool, say: Callable[[str], object]) -> Iterator[Callable[[str], None]]:
    """Append a child's lines to a file; show them on stderr when asked to, or when the file can't be written."""
    with contextlib.ExitStack() as stack:
        if verbose:
            yield stack.enter_context(log_to_stderr(path.stem))
            return
        try:
            log = stack.enter_context(log_to_file(path))
        except OSError as error:
            say(f"the {path.stem}'s log is shown here: {path} can't be written ({error.strerror})")
            log = stack.enter_context(log_to_stderr(path.stem))
        yield log


@contextlib.contextmanager
def log_to_file(path: pathlib.Path) -> Iterator[Callable[[str], None]]:
    """Append lines to a file. A file over 10 MB is first renamed to `.log.old`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LARGE:
        path.replace(path.with_suffix(".log.old"))
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda line: print(line, file=file)


@contextlib.contextmanager
def log_to_stderr(name: str) -> Iterator[Callable[[str], None]]:
    """Show lines on stderr, each with the child's name before it."""
    yield lambda line: print(f"[{name}] {line}", file=sys.stderr, flush=True)  # noqa: T201
