"""An environment of its own for each peer, made once from its pinned requirements."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable

from benchmarks.comparison.field import HERE, Contender

_DONE = "made-from"


def make_environments(contenders: Iterable[Contender], folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Make those that are lacking or were made from other requirements; one at a time, with low priority."""
    for name in dict.fromkeys(contender.environment for contender in contenders if contender.environment):
        requirements = HERE / "requirements" / f"{name}.txt"
        wanted = requirements.read_text() + (HERE / "requirements" / "tensorflow.txt").read_text()
        mark = folder / name / _DONE
        if mark.is_file() and mark.read_text() == wanted:
            continue
        say(f"making the environment of {name} (a minute or two, about 2 GB)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        pip = [str(folder / name / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(["nice", "-n", "10", *pip, "-r", str(requirements)], check=True)
        mark.write_text(wanted)


def versions(contender: Contender, folder: pathlib.Path) -> dict[str, str]:
    """Return the versions of a contender's packages in its environment."""
    python = str(folder / contender.environment / "bin" / "python") if contender.environment else sys.executable
    code = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", code, *contender.versions], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
