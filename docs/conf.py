"""Configuration of the documentation site (`make docs`): the Markdown pages, the protos and the client's docstrings."""

import json
import pathlib
import re
import sys

from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))
sys.path.insert(0, str(DOCS.parent))
from proto_reference import reference  # noqa: E402

from benchmarks import figures  # noqa: E402

project = "dermserve"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The source folder is the repository's root, so that links between folders work as they do in a checkout.
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "k8s/*.md", "examples/README.md",
                    "benchmarks/comparison/README.md", "tests/modelserver/recordings/README.md"]  # fmt: skip
exclude_patterns = [".*", "build", "client/web/node_modules"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
html_title = "dermserve"


def fill_in(_app: Sphinx, page: str, source: list[str]) -> None:
    """Make the navigation of the links below each `###` heading of the index; put references and tables in place."""
    if page == root_doc:
        for heading, links in re.findall(r"^### (.+)\n((?:(?!###).*\n?)*)", source[0], re.MULTILINE):
            pages = "\n".join(re.findall(r"\]\(([^)#]+\.md)\)", links))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```\n"
    if page == "docs/api":
        source[0] = source[0].replace("<!-- proto reference -->", reference())
    for name in re.findall("<!-- figures: (.+) -->", source[0]):
        found = json.loads((figures.FOLDER / name).read_text(encoding="utf-8"))
        source[0] = source[0].replace(f"<!-- figures: {name} -->", figures.markdown(found))


def setup(app: Sphinx) -> None:
    """Register what changes pages as they are read."""
    app.connect("source-read", fill_in)
