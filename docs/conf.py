"""Configuration of the documentation site (`make docs`): the Markdown pages and the client's docstrings."""

import re

from sphinx.application import Sphinx

project = "dermserve"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The source folder is the repository's root, so that links between folders work as they do in a checkout.
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "k8s/README.md", "examples/README.md",
                    "benchmarks/comparison/README.md", "tests/modelserver/recordings/README.md"]  # fmt: skip
exclude_patterns = [".*", "build", "client/web/node_modules"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
html_title = "dermserve"


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Make the site's navigation of the links below each `###` heading of the index."""
    if page == root_doc:
        for heading, links in re.findall(r"^### (.+)\n((?:(?!###).*\n?)*)", source[0], re.MULTILINE):
            pages = "\n".join(re.findall(r"\]\(([^)#]+\.md)\)", links))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Register the navigation."""
    app.connect("source-read", add_navigation)
