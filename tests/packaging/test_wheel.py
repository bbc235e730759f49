"""The wheel, as a user has it: from any folder, without the checkout, on each platform it names."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import google.protobuf
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLATFORMS = {
    "win32": ["win_amd64"],
    "darwin": ["macosx_11_0_arm64", "macosx_12_0_arm64", "macosx_13_0_arm64", "macosx_14_0_arm64"],
    "linux": ["manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64"],
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "installed")
    return out / "installed"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run `dermserve` from the wheel and its dependencies, in an empty folder, without the checkout on the path."""
    site = pathlib.Path(google.protobuf.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{wheel}{os.pathsep}{site}"}  # whose .pth files are not read this way
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments, program="import sys; from dermserve.cli import main; sys.argv[0] = 'dermserve'; main()"):
        command = [sys._base_executable, "-Bc", program, *arguments]  # leaves the wheel as it is
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_runs_from_any_folder(installed):
    done = installed("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert installed("--version").stdout == f"dermserve, version {PROJECT['version']}\n"


HELP_OF_EACH = """
import sys
from dermserve.cli import main
for name in sys.argv[1:]:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
"""


def test_its_commands_load(installed):
    commands = ("classify", "models", "doctor", "proto", "edge", "gateway", "up", "export")
    done = installed(*commands, program=HELP_OF_EACH)
    assert (done.returncode, done.stdout.count("Usage:")) == (0, len(commands)), done.stderr


def test_it_brings_the_protos(installed, tmp_path):
    done = installed("proto", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dermserve.protoset").stat().st_size > 10_000
    assert (tmp_path / "google/api/annotations.proto").exists()


def test_it_names_its_programs_and_no_file_outside_its_packages(wheel):
    (info,) = wheel.glob("*.dist-info")
    programs = (info / "entry_points.txt").read_text()
    assert "dermserve = dermserve.cli:main" in programs
    assert {path.name for path in wheel.iterdir()} == {"dermserve", info.name}
    files = [path.relative_to(wheel) for path in wheel.rglob("*")]
    assert not [path for path in files if "tests" in path.parts or path.suffix == ".pyc"]


def _required(extra, platform, version):
    """List what an extra requires there, markers applied."""
    environment = {
        **default_environment(),
        "sys_platform": platform,
        "platform_system": {"win32": "Windows", "darwin": "Darwin", "linux": "Linux"}[platform],
        "os_name": "nt" if platform == "win32" else "posix",
        "platform_machine": {"win32": "AMD64", "darwin": "arm64", "linux": "x86_64"}[platform],
        "python_version": version,
        "python_full_version": f"{version}.0",
        "extra": "",
    }
    names = [extra] if extra else []
    requirements = [*PROJECT["dependencies"]]
    while names:
        for text in PROJECT["optional-dependencies"][names.pop()]:
            requirement = Requirement(text)
            names += requirement.extras if requirement.name == "dermserve" else ()
            requirements += [] if requirement.name == "dermserve" else [text]
    found = [Requirement(text) for text in requirements]
    return [f"{r.name}{r.specifier}" for r in found if r.marker is None or r.marker.evaluate(environment)]


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
def test_client_and_gateway_have_wheels_everywhere(tmp_path, platform):
    _resolve(tmp_path, _required("gateway", platform, "3.14"), platform, "3.14")


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_models_have_wheels_where_they_say_so(tmp_path, platform):
    _resolve(tmp_path, _required("local", platform, "3.13"), platform, "3.13")


def _resolve(folder, requirements, platform, version):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--target", folder, "--python-version", version, "--report", folder / "report"]
    command += [part for tag in PLATFORMS[platform] for part in ("--platform", tag)]
    try:
        done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False, timeout=200)
    except subprocess.TimeoutExpired:
        pytest.skip("NOT TESTED: the package index takes too long")
    if "No matching distribution" not in done.stderr and "Connection" in done.stderr:
        pytest.skip("NOT TESTED: no package index here")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "report").read_text())["install"]
    names = {canonicalize_name(item["metadata"]["name"]) for item in found}
    assert {canonicalize_name(Requirement(text).name) for text in requirements} <= names


PROGRAMS = {
    "": ["dermserve.cli.root", "dermserve.cli.classify", "dermserve.cli.models", "dermserve.cli.proto"],
    "gateway": ["dermserve.gateway.__main__", "dermserve.doctor.cli"],
    "store": ["dermserve.models.lifecycle.cli"],
    "models": ["dermserve.models.exporter"],
    "local": ["dermserve.local.cli", "dermserve.modelserver.__main__"],
    "loadtest": [f"dermserve.loadtest.{name}" for name in ("cli", "capacity", "report", "locustfile")],
}


def _imports(module: str, seen: set[str]) -> set[str]:
    """Name the packages of others that a module of ours imports as it is imported, and what it imports does."""
    parts = [ROOT / folder / module.replace(".", "/") for folder in ("client", "serving", "models", "loadtest")]
    files = [file for part in parts for file in (part.with_suffix(".py"), part / "__init__.py") if file.is_file()]
    if module in seen or not files:
        return set()
    seen.add(module)
    found = _imports(module.rpartition(".")[0], seen)
    for node in ast.parse(files[0].read_text()).body:
        names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
        for name in names:
            found |= _imports(name, seen) if name.startswith("dermserve") else {name.partition(".")[0]}
    return found - sys.stdlib_module_names


def _installed_with(names):
    """Name all that comes along with these distributions."""
    found, left = set(), {canonicalize_name(name) for name in names}
    while left:
        found.add(name := left.pop())
        requirements = map(Requirement, importlib.metadata.requires(name) or [])
        needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
        left |= {canonicalize_name(one.name) for one in needed} - found
    return found


@pytest.mark.parametrize("extra", PROGRAMS)
def test_an_extra_requires_all_that_its_programs_import(extra):
    version = ".".join(map(str, sys.version_info[:2]))
    there = _installed_with(Requirement(text).name for text in _required(extra, "linux", version))
    of = importlib.metadata.packages_distributions()
    seen = set()
    for name in set().union(*(_imports(module, seen) for module in PROGRAMS[extra])):
        assert there & {canonicalize_name(each) for each in of[name]}, f"{name} does not come with [{extra}]"
    assert len(seen) > 3


def test_the_local_image_installs_first_what_the_extra_local_requires():
    text = (ROOT / "k8s" / "images" / "local.Dockerfile").read_text().replace("\\\n", "")
    (program,) = re.findall(r"python3 -c '([^']*)'", text)
    listed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    requirements = [Requirement(line) for line in listed.stdout.splitlines()]
    there = [f"{each.name}{each.specifier}" for each in requirements if not each.marker or each.marker.evaluate()]
    assert set(there) == set(_required("local", "linux", ".".join(map(str, sys.version_info[:2]))))


def test_nothing_that_windows_lacks_is_required_or_imported_there():
    assert "uvloop>=0.22" in _required("gateway", "linux", "3.14")
    assert not [name for name in _required("gateway", "win32", "3.14") if name.startswith("uvloop")]
    for folder in ("client", "serving", "models", "loadtest"):
        for path in (ROOT / folder).rglob("dermserve/**/*.py"):
            assert "import fcntl" not in path.read_text(encoding="utf-8"), path


def test_the_classifiers_say_what_the_metadata_requires():
    versions = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11"
    tensorflow = [name for name in _required("models", "linux", "3.14") if name.startswith("tensorflow")]
    assert tensorflow == []
