"""An environment of its own for each contender, made once from its pinned requirements."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable

from benchmarks.comparison.field import HERE, OURS, ROOT, Contender

_DONE = "made-from"


def make_environments(contenders: Iterable[Contender], folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Make those that are lacking or were made from other requirements; one at a time, with low priority."""
    for name in dict.fromkeys(contender.environment for contender in contenders):
        wanted = requirements(name).read_text()
        mark = folder / name / _DONE
        if mark.is_file() and mark.read_text() == wanted:
            continue
        say(f"making the environment of {name} (a minute or two, about 2 GB)")
        _make(name, folder / name)
        mark.write_text(wanted)


def requirements(name: str) -> pathlib.Path:
    """Give the file that pins what an environment holds."""
    return ROOT / "constraints.txt" if name == OURS else HERE / "requirements" / f"{name}.txt"


def _make(name: str, folder: pathlib.Path) -> None:
    python = str(folder / "bin" / "python")
    what = ["-c", str(requirements(name)), "-e", f"{ROOT}[local]"] if name == OURS else ["-r", str(requirements(name))]
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    command = ["nice", "-n", "10", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    subprocess.run(command, check=True)


def megabytes(folder: pathlib.Path) -> float:
    """Give what an environment takes on disk, pip's own and compiled files included, in MB."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files) / 1e6


def versions(folder: pathlib.Path, packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of packages in an environment."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    command = [str(folder / "bin" / "python"), "-c", code, *packages]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found
