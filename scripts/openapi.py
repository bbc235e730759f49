"""Write the OpenAPI document from the protos, or check that the committed one is fresh.

Run by `make proto`; a test runs it with `--check`.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import tomllib

from google.protobuf import descriptor_pb2
from openapi_document import openapi
from stubs import ROOT, protoc

from dermserve.edge import SITE

COMMITTED = SITE / "openapi.json"


def generate() -> str:
    """Write the document as text."""
    with tempfile.TemporaryDirectory() as scratch:
        image = pathlib.Path(scratch) / "image.binpb"
        protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
        files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return json.dumps(openapi(files, version=version), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the document is stale")
    if not parser.parse_args().check:
        COMMITTED.write_text(generate(), encoding="utf-8")
        return 0
    if COMMITTED.read_text(encoding="utf-8") == generate():
        return 0
    sys.stderr.write("stale: openapi.json (run `make proto` and commit)\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
