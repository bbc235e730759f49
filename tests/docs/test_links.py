"""Links of the Markdown pages resolve, the index links every page, and the code names pages that exist."""

import itertools
import pathlib
import re
import subprocess
import urllib.parse
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def pages() -> list[pathlib.Path]:
    flat = (ROOT / "examples", ROOT)  # in examples/node are others' pages, once it is built
    return [file for folder in (ROOT / "docs", ROOT / "k8s", ROOT / "benchmarks", ROOT / "tests", *flat)
            for file in sorted(folder.glob("*.md") if folder in flat else folder.rglob("*.md"))]  # fmt: skip


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or []


def links(text: str) -> Iterator[str]:
    """Find the targets of links and images, HTML's included."""
    for token in tokens(text):
        if token.type in {"html_block", "html_inline"}:
            yield from re.findall(r'(?:href|src)="([^"]+)"', token.content)
        yield from (str(token.attrs[key]) for key in ("href", "src") if key in token.attrs)


def anchors(text: str) -> set[str]:
    """Make the anchors of headings as GitHub does."""
    parsed, found = list(tokens(text)), set[str]()
    for before, token in itertools.pairwise(parsed):
        if before.type == "heading_open":
            words = "".join(child.content for child in token.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(next(name for name in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if name not in found))
    return found


def broken(page: pathlib.Path, text: str) -> list[str]:
    """List the links within the repository that lead nowhere."""
    found = []
    for link in links(text):
        if SCHEME.match(link):
            continue
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md":
            content = text if target == page else target.read_text()
            found += [link] if anchor not in anchors(content) else []
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_resolves(page: pathlib.Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_missing_file_a_missing_anchor_and_a_missing_picture_are_found() -> None:
    text = '# A b: `c`\n\n[a](#a-b-c) [b](#a-b) [c](gone.md) [d](errors.md#gone)\n\n| |\n|---|\n| <img src="x.png"> |'
    assert broken(ROOT / "docs" / "index.md", text) == ["#a-b", "gone.md", "errors.md#gone", "x.png"]


def test_every_page_is_one_click_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text())}
    assert set(pages()) - {index} <= linked


def test_the_code_names_pages_that_exist() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py", "*.proto", "*.yaml", "*.toml"], cwd=ROOT, capture_output=True,
                            text=True, check=True)  # fmt: skip
    for file in listed.stdout.splitlines():
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", (ROOT / file).read_text()):
            assert (ROOT / page).is_file(), f"{file} names {page}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
