"""Generate the stubs in proto/gen and the OpenAPI document from proto/.

Beside the stubs of the public API go what `dermserve proto` writes: its .proto files, and `dermserve.protoset`, a
FileDescriptorSet with all that they import. tests/proto checks that all of it is fresh.
"""

import pathlib
import shutil
import subprocess
import sys

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


if __name__ == "__main__":
    generate(COMMITTED)
    openapi_document.FILE.write_text(openapi_document.render(), encoding="utf-8")
