"""Shared by all tests: keep every library quiet and away from the network."""

from __future__ import annotations

import os

import pytest
from support import wide

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Models are tiny and tests run side by side: more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    meaning = "wide sweeps to run: of the families that a change touches, and a sample where it touches what they share"
    parser.addoption("--wide", choices=wide.CHOICES, default="changed", help=f"{meaning} (default); all; none")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the wide sweeps that are not asked for; and keep what a file's tests share in one worker, but for the
    families', which share nothing and fill the others' time. A file may name a group of its own."""
    families = {item.nodeid: mark.args[0] for item in items if (mark := item.get_closest_marker("wide"))}
    left_out = families.keys() - wide.asked(config.getoption("--wide"), families)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]
    for item in items:
        grouped = item.get_closest_marker("xdist_group") is not None
        if not grouped and item.path.name not in ("test_encoders.py", "test_language_models.py"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
