"""Shared by all tests: keep every library quiet and away from the network."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
from support import wide, workers

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Models are tiny and tests run side by side: more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
workers.share()  # before there are any


def pytest_addoption(parser: pytest.Parser) -> None:
    meaning = "wide sweeps to run: of the families that a change touches, and a sample where it touches what they share"
    parser.addoption("--wide", choices=wide.CHOICES, default="changed", help=f"{meaning} (default); all; none")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the wide sweeps that are not asked for."""
    families = {item.nodeid: mark.args[0] for item in items if (mark := item.get_closest_marker("wide"))}
    left_out = families.keys() - wide.asked(config.getoption("--wide"), families)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_collection_finish() -> None:
    """What is loaded by now stays: exports make so much that Python would look through all of it again and again for
    what is garbage, a tenth of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take groups of tests, as `workers.group` says."""
    return workers.scheduler(config, log)
