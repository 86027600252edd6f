"""The README says what the code says, and its quick start is two commands."""

from __future__ import annotations

import re

from generate_docs import README, generated


def test_generated_parts_are_fresh() -> None:
    text = README.read_text()
    assert generated(text) == text, "run: python tests/generate_docs.py"


def test_quick_start_is_two_commands() -> None:
    block = re.search(r"^```bash\n(.*?)^```$", README.read_text(), re.S | re.M)
    assert block is not None
    assert len(block[1].strip().splitlines()) == 2
