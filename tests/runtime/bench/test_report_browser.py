"""The report's page in a real browser: light and dark, desktop and phone; and every check shown to find its defect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import bench_records
from support.bench_records import nasty
from support.report_checks import FLAGS, chromium, findings, opened

from precast.runtime.bench.report import html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        assert os.environ.get("PRECAST_BROWSER") != "require", "PRECAST_BROWSER=require, and there is no Chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    records = {
        "full": bench_records.full(),
        "alone": bench_records.alone(),
        "minimal": bench_records.minimal(),
        "nasty": nasty(bench_records.full(seed=2, workloads=("llama-134m",))),
        "empty": {"format": "precast-bench/1"},
    }
    for name, record in records.items():
        (folder / f"{name}.html").write_text(html(record), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "theme", "width"),
    [
        ("full", "light", 1280),
        ("full", "dark", 390),
        ("alone", "dark", 1280),
        ("nasty", "light", 390),
        ("minimal", "dark", 1280),
        ("empty", "light", 390),
    ],
)
def test_nothing_is_wrong_with_a_page(browser: Any, pages: Path, name: str, theme: str, width: int) -> None:
    with opened(browser, pages / f"{name}.html", theme=theme, width=width) as (view, said):
        assert findings(view, said) == []
        assert (view.locator(".plot").count() > 0) == (name != "empty")
        # The tables are there for whoever cannot see a chart, and fit as well.
        view.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert findings(view, said) == []


def test_a_page_follows_its_window(browser: Any, pages: Path) -> None:
    with opened(browser, pages / "alone.html", width=1280) as (view, said):
        view.set_viewport_size({"width": 390, "height": 844})
        for _ in range(40):  # Plotly draws anew a moment after the last change of size
            found = findings(view, said)
            if not found:
                break
            view.wait_for_timeout(250)
        assert found == []


# What is planted, and the finding it must make. All in one page: loading plotly.js costs a second each time.
_DEFECTS = {
    "a label cut off": (
        "document.querySelector('#chart0 .ytick text').setAttribute('transform', 'translate(-300, 0)')",
        "cut off in chart0",
    ),
    "labels on each other": (
        "const [a, b] = document.querySelectorAll('#chart1 .ytick text');"
        "for (const name of ['x', 'y', 'transform']) b.setAttribute(name, a.getAttribute(name) || '')",
        "on each other in chart1",
    ),
    "a chart without a trace": ("Plotly.react('chart2', [], {})", "empty chart: chart2"),
    "a chart without a picture": ("document.querySelector('#chart3').replaceChildren()", "empty chart: chart3"),
    "invisible marks": (
        "document.querySelectorAll('#chart4 .trace path').forEach(mark => { mark.style.opacity = '0'; })",
        "empty chart: chart4",
    ),
    "a chart of another width": (
        "document.querySelector('#chart5 svg').style.width = '100px'",
        "chart is not as wide as its place: chart5",
    ),
    "an error on the console": ("console.error('planted')", "console error: planted"),
    "an exception": ("setTimeout(() => { throw new Error('thrown'); }, 0)", "error: thrown"),
    "a request": (
        "document.body.appendChild(Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' }))",
        "console error: Loading the image",
    ),
    "pale text": ("document.querySelector('h1').style.color = '#c9c9c9'", "contrast 1."),
    "pale text of a chart": (
        "document.querySelector('#chart6 .xtick text').style.setProperty('fill', '#e0e0e0', 'important')",
        "contrast 1.3",
    ),
    "small text": ("document.querySelector('.lead').style.fontSize = '9px'", "too small, 9 px"),
    "text wider than its box": (
        "Object.assign(document.querySelector('h3').style, { width: '40px', whiteSpace: 'nowrap' })",
        "cut off in <h3>",
    ),
    "a page wider than the screen": ("document.querySelector('h2').style.width = '3000px'", "the page is"),
}


def test_every_check_finds_its_defect(browser: Any, pages: Path) -> None:
    with opened(browser, pages / "alone.html") as (view, said):
        assert findings(view, said) == []
        for script, _ in _DEFECTS.values():
            view.evaluate(f"() => {{ {script}; }}")
        view.wait_for_timeout(50)
        found = findings(view, said)
    missed = [name for name, (_, told) in _DEFECTS.items() if not any(line.startswith(told) for line in found)]
    assert missed == [], found
