"""The root command: what it lists, what it loads, and what it says when something isn't installed."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner

from dermserve.cli import main
from dermserve.cli.root import ENTRIES, Entry, LazyGroup

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_help_lists_every_command_and_the_exit_codes():
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    for name, entry in ENTRIES.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", done.output, re.M)
    assert "3 no" in done.output


def test_help_loads_no_command():
    code = """
import sys
from dermserve.cli import main
try: main(["--help"])
except SystemExit: pass
import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(done.stderr))
    heavy = {"grpc", "google.protobuf", "numpy", "PIL", "tensorflow", "dermserve.client", "dermserve.gateway"}
    assert not loaded & heavy


def test_the_version_is_the_distributions():
    done = CliRunner().invoke(main, ["--version"])
    assert done.output == f"dermserve, version {importlib.metadata.version('dermserve')}\n"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_loads_and_has_help_of_its_own(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"Usage: main {name}" in done.output


@pytest.mark.parametrize("name", ["classify", "demo"])
def test_no_command_shows_the_log_lines_of_grpc(monkeypatch, name):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    ENTRIES[name].load(name)
    assert os.environ["GRPC_VERBOSITY"] == "NONE"


def test_an_unknown_command_is_wrong_usage():
    done = CliRunner().invoke(main, ["clasify"])
    assert done.exit_code == 2
    assert "No such command" in done.output


@pytest.mark.parametrize("within", [False, True])
def test_a_missing_extra_says_what_to_install(monkeypatch, within):
    @click.command()
    def thing():
        importlib.import_module("no_such_module_of_ours")

    monkeypatch.setattr(sys.modules[__name__], "thing", thing, raising=False)
    target = f"{__name__}:thing" if within else "no_such_module_of_ours:command"
    entries = {"thing": Entry(target, "A thing.", "gateway")}
    done = CliRunner().invoke(LazyGroup(name="dermserve", entries=entries), ["thing"])
    assert done.exit_code == 2
    assert "missing: no_such_module_of_ours" in done.output
    assert "pip install '.[gateway]' in a clone" in done.output


def test_an_extra_of_an_entry_is_one_of_the_distribution():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {entry.extra for entry in ENTRIES.values()} - {None} <= extras.keys()


@pytest.mark.parametrize(
    ("does", "code"), [("raise KeyboardInterrupt", 130), ("raise BrokenPipeError(32, 'gone')", 1), ("ctx.exit(7)", 7)]
)
def test_the_program_ends_with_the_codes_of_commands_and_of_shells(does, code):
    program = f"""
import click
from dermserve.cli.root import Entry, LazyGroup
@click.command()
@click.pass_context
def thing(ctx): {does}
class Loaded(Entry):
    def load(self, name): return thing
LazyGroup(name="dermserve", entries={{"thing": Loaded("", "")}})(["thing"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (code, b"")


def test_an_error_of_the_system_without_a_file_is_one_line(monkeypatch):
    def full(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(os, "access", full)
    done = CliRunner().invoke(main, ["classify", "a.jpg", "--csv", "table.csv"])
    assert (done.exit_code, done.output) == (1, "Error: can't use: No usable temporary directory found in ['/tmp']\n")


def test_a_folder_of_files_that_a_disk_has_no_room_for_is_one_line(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))"
    code = f"{limit}; from dermserve.cli import main; main(['edge', 'files', {str(tmp_path / 'www')!r}])"
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: can't write: File too large\n")


@pytest.mark.parametrize("out", ["/proc/none/envoy.yaml", "/proc/envoy.yaml", "/dev/null/envoy.yaml"])
def test_a_file_that_no_command_expected_to_fail_is_one_line(out):
    code = f"from dermserve.cli import main; main(['edge', 'config', '--gateway', 'gateway:1', '--out', {out!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: can't use /")


def test_a_configuration_that_a_disk_has_no_room_for_does_not_replace_the_former_one(tmp_path):
    out = tmp_path / "envoy.yaml"
    for limit in ("", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "):
        command = ["edge", "config", "--gateway", "g:1", "--out", str(out)]
        code = f"{limit}from dermserve.cli import main; main({command!r})"
        done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == bool(limit), done.stderr
    assert len(out.read_text()) > 10_000


@pytest.mark.parametrize("module", ["click", "dermserve.cli.root", "grpc"])
def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(module):
    program = f"""
import sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == {module!r}: raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from dermserve.cli import main
main(["models"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, b"")
