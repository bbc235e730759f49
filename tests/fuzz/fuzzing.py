"""What the fuzz targets share: running under atheris (libFuzzer), over a corpus made by code.

    pip install '.[fuzz]'
    python tests/fuzz/decode.py -runs=1000000        # or request.py, answer.py; libFuzzer's options; Ctrl-C ends it

What crashes a target is written to crash-* in the current folder; `python tests/fuzz/decode.py crash-…` runs it again.
New inputs that reach new code are kept only when a folder is named: `python tests/fuzz/decode.py FOLDER -runs=…`.
"""

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable

Target = Callable[[bytes], None]


def instrumented() -> contextlib.AbstractContextManager[None]:
    """Have what is imported in the block tell libFuzzer what of its code is reached, if a target was started."""
    if pathlib.Path(sys.argv[0]).resolve().parent != pathlib.Path(__file__).resolve().parent:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["dermserve.imaging", "dermserve.gateway", "dermserve.contract", "PIL"])


def run(target: Target, seeds: Iterable[bytes]) -> None:
    """Fuzz a target for ever, or as the command line says."""
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (pathlib.Path(folder) / f"seed-{number}").write_bytes(seed)
        given = sys.argv[1:]
        replays = any(pathlib.Path(argument).is_file() for argument in given)
        atheris.Setup([sys.argv[0], "-len_control=0", *given, *([] if replays else [folder])], target)
        atheris.Fuzz()
