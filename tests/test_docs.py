"""The README says what the code says, and its quick start is two commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.generate_docs import PARTS, README, RECORD, generated


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.name)
def test_generated_parts_are_fresh(path: Path) -> None:
    assert generated(path) == path.read_text(), "run: python -m support.generate_docs, in tests/"


def test_the_recorded_page_is_of_the_recorded_run() -> None:
    from precast.runtime.bench import record
    from precast.runtime.bench.report.page import digest

    pages = sorted(RECORD.parent.glob("*.html"))  # 5 MB each: one is kept, the others are drawn from their records
    assert RECORD.with_suffix(".html") in pages
    for page in pages:
        path = page.with_suffix(".json")
        found = f'content="{digest(record.read(path))}"' in page.read_text()
        assert found, f"run: precast bench report {path} --html {page}"


def test_quick_start_is_two_commands() -> None:
    block = re.search(r"^```bash\n(.*?)^```$", README.read_text(), re.S | re.M)
    assert block is not None
    assert len(block[1].strip().splitlines()) == 2
