"""Generate the stubs in proto/gen and the OpenAPI document from proto/, or check that the committed ones are fresh.

Beside the stubs of the public API go what `dermserve proto` writes: its .proto files, and `dermserve.protoset`, a
FileDescriptorSet with all that they import. With `--check` it also lints the protos with buf.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import openapi_document

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
COMMITTED = PROTO / "gen"
THIRD_PARTY = PROTO / "third_party"
API = pathlib.PurePath("dermserve/v1")


def protoc(*arguments: str, package: str = "dermserve") -> None:
    """Run grpc_tools' protoc over every proto of a package of ours."""
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / package).rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{THIRD_PARTY}", *arguments, *sources]
    subprocess.run(command, check=True)  # noqa: S603


def generate(target: pathlib.Path) -> None:
    """Write all stubs below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    protoc(f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}")
    for path in target.rglob("*_pb2_grpc.py"):
        if "Stub" not in path.read_text():  # without a service in that proto, the file is empty
            path.unlink()
    for package in {path.parent for path in target.rglob("*_pb2.py")}:
        (package / "py.typed").touch()
    for path in (PROTO / API).glob("*.proto"):
        shutil.copy(path, target / API)
    image = target / API / "dermserve.protoset"
    protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}", package=str(API))


def stale(committed: pathlib.Path) -> list[str]:
    """Name the stubs that differ from newly generated ones."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = pathlib.Path(scratch)
        generate(fresh)
        new, old = (
            {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}
            for base in (fresh, committed)
        )
        return sorted(name for name in new | old if new.get(name) != old.get(name) and not name.endswith(".pyc"))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if stubs are stale or buf complains")
    if not parser.parse_args().check:
        generate(COMMITTED)
        openapi_document.FILE.write_text(openapi_document.render(), encoding="utf-8")
        return 0
    outdated = [f"proto/gen/{name}" for name in stale(COMMITTED)]
    if openapi_document.FILE.read_text(encoding="utf-8") != openapi_document.render():
        outdated.append(openapi_document.FILE.name)
    for name in outdated:
        sys.stderr.write(f"stale: {name} (run `make proto` and commit)\n")
    buf = pathlib.Path(sys.executable).with_name("buf")
    return 1 if outdated else subprocess.run([buf, "lint", ROOT], check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
