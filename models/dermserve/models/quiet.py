"""Hide side effects of TensorFlow: its messages on stderr, and files in the temporary folder."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr_held(*, unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2, and show it if the block raises another exception.

    TensorFlow logs hints about CPUs and GPUs there before any setting of its own can stop it.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except unless:
            raise
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def no_bytecode() -> Iterator[None]:
    """Keep AutoGraph, which imports modules that it writes into TMPDIR, from leaving a __pycache__ there."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
