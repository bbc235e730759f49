"""Make a store a build context for the models' image: `python scripts/pack_store.py .dermserve/store`.

Writes .dockerignore, and sbom.cdx.json: CycloneDX 1.6 with a component for each version and the digest of its manifest.
Prints the versions, for example "mobilenet_v3_small/1 resnet50/1".
"""

import json
import pathlib
import sys
from typing import Any

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, parse_manifest
from dermserve.models.lifecycle.stores import LocalStore

SBOM = "sbom.cdx.json"
IGNORE = """# Half-made versions, the servers' list and shares, and the audit log, which names people.
.*
audit.jsonl
canary.toml
intent.json
models.config
"""


def component(folder: pathlib.Path) -> dict[str, Any]:
    """Describe a version; without digest if it is of other origin and has no manifest."""
    name = f"{folder.parent.name}/{folder.name}"
    found = {"type": "machine-learning-model", "bom-ref": name, "name": folder.parent.name, "version": folder.name}
    file = folder / MANIFEST
    if not file.exists():
        return found
    manifest = parse_manifest(file.read_bytes(), where=str(file))
    about = [{"name": f"dermserve:{key}", "value": value} for key, value in sorted(manifest.about.items())]
    return {**found, "hashes": [{"alg": "SHA-256", "content": manifest.digest}], "properties": about}


def main(store: pathlib.Path) -> None:
    """Write both files."""
    held = LocalStore(store)
    found = [component(store / model / str(version)) for model in held.models() for version in held.versions(model)]
    if not found:
        sys.exit(f"{store} holds no version of a model: export one first (dermserve export --store {store})")
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": "dermserve/models"}},
        "components": found,
    }
    (store / SBOM).write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")
    (store / ".dockerignore").write_text(IGNORE, encoding="utf-8")
    sys.stdout.write(" ".join(each["bom-ref"] for each in found) + "\n")


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]))
    except IndexError:
        sys.exit(f"usage: {sys.argv[0]} STORE")
    except (OSError, StoreError) as problem:
        sys.exit(str(problem))
