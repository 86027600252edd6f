"""The pages of the documentation as a test reads them: their links, anchors, examples and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support import ROOT

__all__ = ["DOCS", "PAGES", "README", "commands", "dead_links", "examples"]

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.rglob("*.md")),
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]*)\)|(?:href|src)=\"([^\"]*)\"")
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: *\{[^}]*\})?$", re.M)
_ID = re.compile(r"\bid=\"([^\"]+)\"")


def _prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text("utf-8")))


@cache
def _anchors(path: Path) -> frozenset[str]:
    text = _FENCE.sub("", path.read_text("utf-8"))
    slugs = [
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in _HEADING.findall(text)
    ]
    return frozenset([*slugs, *_ID.findall(text)])


def dead_links(path: Path) -> list[str]:
    """What is wrong with a page's links. Addresses elsewhere are checked for their form only; nobody is asked."""
    found = []
    for target in (one or other for one, other in _LINK.findall(_prose(path))):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            if parts.scheme != "https" or not re.fullmatch(r"[\w.-]+\.[a-z]{2,}", parts.netloc):
                found.append(f"{target}: no address of the web")
            continue
        place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.startswith("/") or not place.is_relative_to(ROOT) or not place.exists() or not target:
            found.append(f"{target}: no such file")
        elif path.is_relative_to(DOCS) and not place.is_relative_to(DOCS):
            found.append(f"{target}: the site holds docs/ only")
        elif parts.fragment and parts.fragment not in _anchors(place):
            found.append(f"{target}: no such anchor in {place.name}")
    return found


def examples(path: Path) -> str:
    """All Python of a page, one after the other; lines stay where they are in the page."""
    text = path.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for match in _FENCE.finditer(text):
        if match[1] == "python":
            start = text.count("\n", 0, match.start(2))
            lines[start : start + match[2].count("\n")] = match[2].splitlines()
    return "\n".join(lines) if any(lines) else ""


def commands(path: Path) -> Iterator[list[str]]:
    """Every call of `precast` in a page's shell blocks, as the shell would split it."""
    for match in _FENCE.finditer(path.read_text("utf-8")):
        if match[1] not in ("sh", "bash"):
            continue
        for line in match[2].splitlines():
            parts = shlex.shlex(line, posix=True, punctuation_chars=True)
            parts.whitespace_split = True
            call: list[str] = []
            for word in [*parts, ";"]:
                if set(word) <= set("();<>|&"):
                    if call and call[0].rpartition("/")[2] == "precast":
                        yield call[1:]
                    call = []
                else:
                    call.append(word)
