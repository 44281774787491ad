"""Check the links of the built site and of the repository's Markdown files. Needs no network.

    python docs/check.py build/docs

In the site, the target of every internal link must exist, page and anchor, and no page may make a browser
load anything from another site (links that a reader clicks may lead there). In a Markdown file, the file and
the heading of every relative link must exist.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
#: Attributes whose address a browser loads without a click.
_FETCHED = {
    "img": "src",
    "script": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}


class _Page(HTMLParser):
    """The links, the loaded addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by HTMLParser."""
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.anchors.add(found["id"])
        wanted = _FETCHED.get(tag)
        if wanted and wanted in found and not (tag == "link" and found.get("rel") in ("canonical", "author")):
            self.fetched.append(found[wanted])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def problems_of_site(site: Path) -> Iterator[str]:
    """Yield a line for each internal link without a target, and for each address on another site."""
    pages = {file: _Page(file.read_text("utf-8")) for file in sorted(site.rglob("*.html"))}
    assert pages, f"there is no page in {site}"
    for file, page in pages.items():
        for address in page.fetched:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                yield f"{file.relative_to(site)} fetches {address}"
        for address in (*page.links, *page.fetched):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                yield f"{file.relative_to(site)} leads to {address}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{file.relative_to(site)} leads to {address}: there is no such place on that page"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", style.read_text("utf-8")):
            yield f"{style.relative_to(site)} fetches {address}"


def problems_of_repository() -> Iterator[str]:
    """Yield a line for each relative link of a Markdown file without a target."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        file = ROOT / name
        text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.S | re.M)
        for address in re.findall(r"\]\(([^)\s]+)\)", text):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                yield f"{name} leads to {address}, which is not there"
            elif parts.fragment and target.suffix == ".md" and parts.fragment not in _headings(target):
                yield f"{name} leads to {address}: there is no such heading"


def _headings(file: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.S | re.M)
    found = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


def main() -> int:
    """Print the problems; return 1 if there are any."""
    found = [*problems_of_site(Path(sys.argv[1]).resolve()), *problems_of_repository()]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
