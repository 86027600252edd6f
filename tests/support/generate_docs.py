"""Write what is generated of the documentation and of the package's typed names, from the code and recorded runs.

python -m support.generate_docs, in tests/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from precast.runtime.catalogue import AUTO, CATALOGUE
from support import ROOT
from support.docs import speed, tables

__all__ = ["FILES", "PAGE", "PARTS", "README", "generated"]

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGE = speed.ENCODERS.with_suffix(".html")  # 5 MB: that of one record is kept, the others are drawn from theirs


def _auto() -> str:
    """The classes that `precast.runtime.auto` makes of the catalogue, for who reads types without running them."""
    return "\n".join(f"    {name} = AutoModel" for name in sorted(AUTO) if name != "AutoModel")


# Parts of files, each between its two marks.
PARTS: dict[Path, Mapping[str, Callable[[], str]]] = {
    README: {"groups": tables.groups},
    ROOT / "mkdocs.yml": {"tasks": tables.task_nav},
    ROOT / "runtime" / "_facade" / "__init__.py": {"auto": _auto},
    DOCS / "architectures.md": {"architectures": tables.architectures, "owed": tables.owed},
    DOCS / "cli.md": {"cli": tables.cli},
    DOCS / "speed.md": {
        "opening": speed.opening,
        "encoders": speed.encoders,
        "int8": speed.int8,
        "vision": speed.vision,
        "generation": speed.generation,
    },
    DOCS / "tasks" / "index.md": {"tasks": tables.task_pages},
    **{DOCS / "tasks" / f"{name}.md": {"facts": partial(tables.task_facts, name)} for name in CATALOGUE},
}
# Files that are generated whole.
FILES: dict[Path, Callable[[], str]] = {
    **{DOCS / "pictures" / f"{name}.svg": partial(speed.picture, path) for name, path in speed.PICTURES.items()},
    PAGE: speed.page,
}


def generated(path: Path) -> str:
    """The text of a file with every generated part of it written anew."""
    if path in FILES:
        return FILES[path]()
    if not path.is_file():
        raise SystemExit(f"{path} is missing: write it with the marks {', '.join(PARTS[path])}")
    text = path.read_text("utf-8")
    for name, part in PARTS[path].items():
        pattern = re.compile(
            rf"(^ *(?:<!--|#) generated: {name}(?: -->)?\n).*?(^ *(?:<!--|#) end(?: -->)?$)", re.S | re.M
        )
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{path} must hold the mark 'generated: {name}' once, found {count}")
    return text


if __name__ == "__main__":
    for path in (*PARTS, *FILES):
        path.write_text(generated(path), "utf-8")
