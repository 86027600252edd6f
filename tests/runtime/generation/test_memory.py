"""Generations leave nothing behind in memory, and no step asks for as much as a cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import TESTS, tiny_artifacts

from precast.export.heads import CAUSAL_LM, SEQ2SEQ_LM, Head
from precast.runtime.artifact import Artifact

# Large caches beside everything else: positions are all that a cache's size takes from a tiny config.
MODELS: dict[str, tuple[Head, dict[str, Any]]] = {
    "llama": (CAUSAL_LM, {"max_position_embeddings": 8192}),
    "gemma3_text": (CAUSAL_LM, {"max_position_embeddings": 8192}),
    "mamba": (CAUSAL_LM, {}),
    "t5": (SEQ2SEQ_LM, {}),
}


def artifact(model_type: str) -> Path:
    head, overrides = MODELS[model_type]
    return tiny_artifacts.plain(model_type, head, **overrides)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("model_type", MODELS)
def test_generations_leave_nothing_behind(model_type: str) -> None:
    path = artifact(model_type)
    for variant in Artifact.open(path).component_for(None).variants:
        done = subprocess.run(
            [sys.executable, "-m", "support.generation_memory", str(path), variant, "150"],
            capture_output=True,
            text=True,
            check=False,
            cwd=TESTS,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        # Kept caches would be hundreds: one of these generations has 0.1 to 1 MiB.
        assert found["resident"][-1] - found["resident"][0] < 8, (variant, found)
        if model_type != "mamba":  # a state has no room to spare: it is rewritten in each step, and small
            assert found["steps"] < found["cache"] / 4 and found["arrays"] < found["cache"] / 16, (variant, found)
