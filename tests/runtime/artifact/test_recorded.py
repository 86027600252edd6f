"""Artifacts that earlier versions made, kept as they were: they are read, verified, run and computed as ever.

Made with the last commit of each format, by tests/support/tiny_artifacts.py and oracle.py as they were then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support import DATA

import precast
from precast.runtime.artifact import Artifact
from precast.runtime.generation.language_model import LanguageModel

ARTIFACTS = sorted(path.parent for path in (DATA / "artifacts").glob("*/*/precast.json"))


def ident(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def test_every_format_is_kept() -> None:
    assert {path.parent.name for path in ARTIFACTS} == {"1.0", "1.1", "1.2"}


@pytest.mark.parametrize("path", ARTIFACTS, ids=ident)
def test_it_is_read_and_verified(path: Path) -> None:
    artifact = Artifact.open(path)
    assert ".".join(map(str, artifact.manifest.version)) == path.parent.name
    report: Any = precast.verify(path, variant="cpu-fp32")
    assert report["variants"]["cpu-fp32"]


@pytest.mark.parametrize("path", ARTIFACTS, ids=ident)
def test_its_outputs_are_held_to_the_gate_of_their_kind(path: Path) -> None:
    """Formats before 1.3 say none: names stand for it, and a replay is as strict as it was."""
    kinds = {"last_hidden_state": "states", "pooler_output": "embedding"}
    for component in Artifact.open(path).components.values():
        for out in component.outputs:
            hidden = "features" if out.name.startswith("cross_") else "state" if out.name.startswith("present_") else ""
            assert out.kind == (hidden or kinds.get(out.name, "logits")), out
            assert out.axis == -1


@pytest.mark.parametrize("path", [path for path in ARTIFACTS if path.parent.name != "1.2"], ids=ident)
def test_it_computes_what_its_graph_does(path: Path) -> None:
    """The same bytes as a bare session of the same graph."""
    model = precast.load(path, variant="cpu-fp32", threads=1)
    ids = np.arange(1, 13, dtype=np.int64).reshape(2, 6)
    ours = model(input_ids=ids)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.artifact.file(model.variant.graph), options, providers=["CPUExecutionProvider"]
    )
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    bare = session.run(None, {spec.name: given[spec.name] for spec in session.get_inputs()})
    for name, expected in zip(model.output_names, bare, strict=True):
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)


@pytest.mark.parametrize("path", [path for path in ARTIFACTS if path.parent.name == "1.2"], ids=ident)
def test_it_generates(path: Path) -> None:
    """Greedily, in steps behind a cache, what calls without one find the most likely."""
    model = precast.load(path, variant="cpu-fp32", threads=1)
    assert isinstance(model, LanguageModel)
    prompt = np.arange(3, 10, dtype=np.int64)[None]
    made = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    if path.name == "decoder":
        logits = model(input_ids=made[:, :-1])["logits"][:, prompt.shape[1] - 1 :]
    else:
        logits = model(input_ids=prompt, decoder_input_ids=made[:, :-1])["logits"]
    np.testing.assert_array_equal(made[0, -8:], logits[0, -8:].argmax(-1))
