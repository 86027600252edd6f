"""A loaded model is called by place or by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny_artifacts

import precast
from precast.runtime.errors import InputError


@pytest.fixture(scope="module", params=["text-classification", "text-generation"])
def path(request: pytest.FixtureRequest) -> Path:
    if request.param == "text-generation":
        return tiny_artifacts.language_model()
    return tiny_artifacts.artifact(request.param)


def test_ids_are_given_by_place(path: Path) -> None:
    model = precast.load(path)
    ids = np.array([[2, 7, 9, 3], [2, 5, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = model(input_ids=ids, attention_mask=mask)
    for given in (ids, ids.tolist(), ids.astype(np.int32)):
        found = model(given, attention_mask=mask)
        assert list(found) == list(expected)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_what_cannot_be_given_by_place(path: Path) -> None:
    model = precast.load(path)
    ids = np.array([[2, 7, 9, 3]])
    with pytest.raises(InputError, match="one input is given by place, input_ids; name the others: input_ids, att"):
        model(ids, ids)
    with pytest.raises(InputError, match="input_ids is given twice"):
        model(ids, input_ids=ids)
    with pytest.raises(InputError, match=r"passed as keywords: model\(\*\*inputs\)"):
        model({"input_ids": ids})
    with pytest.raises(InputError, match=r"input 'input_ids' (is needed|holds integers)"):
        model(None)


def test_python_dash_m_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "precast", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["precast", precast.__version__]
    wrong = subprocess.run([sys.executable, "-m", "precast", "exprt"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "Usage: precast " in wrong.stderr
