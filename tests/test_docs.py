"""The documentation says what the code says, leads where it says, and builds into a site."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import ROOT
from support.docs import pages
from support.docs.pages import DOCS, PAGES, README
from support.generate_docs import FILES, PAGE, PARTS, generated

from precast.runtime.bench.report import charts
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.cli.app import app

_STALE = "run: python -m support.generate_docs, in tests/"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_generated_parts_are_fresh(path: Path) -> None:
    assert generated(path) == path.read_text("utf-8"), _STALE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_generated_files_are_fresh(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the benchmark's page all but the figures and plotly.js, which are as the installed plotly makes them."""

    def told(text: str) -> str:
        return text.partition('<script type="application/json"')[0]

    drawn = SimpleNamespace(to_json=lambda **options: "{}")
    kinds = dict.fromkeys(("Bar", "Box", "Scatter"), dict)
    objects = SimpleNamespace(**kinds, Figure=lambda *parts: drawn, layout=SimpleNamespace(Template=dict))
    monkeypatch.setattr(charts, "plotly", lambda: (objects, ""))
    assert told(generated(path)) == told(path.read_text("utf-8")), _STALE


def test_one_page_of_a_record_is_kept() -> None:
    assert sorted(PAGE.parent.glob("*.html")) == [PAGE]  # 5 MB each: the others are drawn from their records


def test_quick_start_is_two_commands() -> None:
    block = re.search(r"^```bash\n(.*?)^```$", README.read_text("utf-8"), re.S | re.M)
    assert block is not None
    assert len(block[1].strip().splitlines()) == 2


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_link_is_dead(path: Path) -> None:
    assert pages.dead_links(path) == []


def test_dead_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\n[a](page.md#a-title) [b](#b) [c](gone.md) ![d](gone.svg) [e](http://example.org) [f](https://x)\n"
        '[g](/page.md) [h](../page.md) <a href="gone.html">i</a> [j](https://example.org/) `[k](gone.md)`\n'
    )
    found = [line.partition(":  ")[0] for line in pages.dead_links(page)]
    assert [line.rpartition(": ")[0] for line in found] == [
        *("#b", "gone.md", "gone.svg", "http://example.org", "https://x", "/page.md", "../page.md", "gone.html"),
    ]


def test_every_page_is_in_the_menu_and_every_task_has_one() -> None:
    menu = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(menu) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    for task in CATALOGUE:
        assert pages.examples(DOCS / "tasks" / f"{task}.md"), f"docs/tasks/{task}.md shows no example"


@pytest.mark.parametrize("path", [path for path in PAGES if [*pages.commands(path)]], ids=name_of)
def test_commands_are_the_command_lines(path: Path) -> None:
    """Every `precast ...` of a page has a command, options and arguments that there are."""
    import typer

    group: Any = typer.main.get_command(app)
    for call in pages.commands(path):
        context = group.make_context("precast", list(call))
        command: Any = group
        rest = list(call)
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, rest)
            context = command.make_context(name, list(rest), parent=context)
            rest = [*context._protected_args, *context.args] if hasattr(command, "resolve_command") else []


def test_the_site_is_built(tmp_path: Path) -> None:
    """Strictly: a dead link or anchor ends it. From copies, as it writes beside its configuration."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    call = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "mkdocs.yml"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    for path in DOCS.rglob("*.md"):
        place = path.relative_to(DOCS).with_suffix("")
        assert (site / (place.parent if place.name == "index" else place) / "index.html").is_file()


def test_no_page_names_a_machine() -> None:
    """No folder of a machine, and nobody's address but a public one."""
    for path in [*PAGES, *FILES]:
        text = path.read_text("utf-8").partition("<script>")[0]
        assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|opt|usr)/|localhost|127\.0\.0\.1", text), path
