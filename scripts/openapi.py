"""Write the OpenAPI document from the descriptor set of the protos, or check that the committed one is fresh.

Run by `make proto`; a test runs it with `--check`.
"""

import argparse
import json
import sys
import tomllib

from openapi_document import openapi
from proto_comments import read_protoset
from stubs import ROOT

from dermserve.edge import SITE

COMMITTED = SITE / "openapi.json"


def generate() -> str:
    """Write the document as text."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return json.dumps(openapi(read_protoset(), version=version), indent=1, ensure_ascii=False) + "\n"


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
