"""Every weight is stored once, as the kernels read it: what runs without them is given arrays made of these."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle

import precast
from precast.export.exporter import export_model
from precast.export.heads import BASE, CAUSAL_LM, Head
from precast.runtime.artifact import Artifact, Variant
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import BackendError
from precast.runtime.initializers import made

LLAMA = {"hidden_size": 128, "intermediate_size": 264, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 520, "tie_word_embeddings": True}  # fmt: skip
BERT = {"hidden_size": 128, "intermediate_size": 264, "num_attention_heads": 4, "vocab_size": 520}
CASES: list[tuple[str, Head, dict[str, Any], str, float]] = [
    # Of the integers' bytes: their scales and zero points, positions, norms, and rows that fill the last panel.
    ("llama", CAUSAL_LM, LLAMA, "int8", 1.1),
    ("llama", CAUSAL_LM, LLAMA, "int4", 1.25),
    ("bert", BASE, BERT, "int8", 1.5),
    ("llama", CAUSAL_LM, LLAMA, "fp32", 1.05),  # bfloat16 as it came
    ("bert", BASE, BERT, "fp32", 1.05),
]


def exported(folder: Path, model_type: str, head: Head, sizes: dict[str, Any], precision: str) -> tuple[Path, int]:
    """An artifact, and the numbers of its model's matrices."""
    config, model = oracle.upstream(model_type, head, sizes)
    oracle.calm(model)
    source = oracle.save_checkpoint(folder / "checkpoint", config, model.to(torch.bfloat16))
    numbers = sum(value.numel() for value in {id(v): v for v in model.parameters()}.values() if value.ndim == 2)
    return export_model(source, folder / "out", precision=precision), numbers


def answers(path: Path, variant: str) -> np.ndarray:
    ids = np.random.default_rng(0).integers(3, 500, (2, 9))
    outputs = precast.load(path, variant=variant, threads=1)(input_ids=ids)
    gc.collect()
    return np.asarray(next(iter(outputs.values())))


@pytest.mark.parametrize(("model_type", "head", "sizes", "precision", "most"), CASES, ids=lambda value: str(value)[:12])
def test_all_variants_read_the_same_files(
    model_type: str, head: Head, sizes: dict[str, Any], precision: str, most: float, tmp_path: Path
) -> None:
    path, numbers = exported(tmp_path, model_type, head, sizes, precision)
    [component] = Artifact.open(path).manifest.components.values()
    general, native = (component.variants[f"cpu-{precision}{suffix}"] for suffix in ("", "-native"))
    assert set(general.weights) == set(native.weights)
    rules = general.session["initializers"]
    assert rules and {rule["weight"] for rule in rules.values()} <= set(general.weights)
    assert "initializers" not in native.session
    stored = sum((path / name).stat().st_size for name in general.weights)
    of_one = {"int8": 1, "int4": 0.5, "fp32": 2}[precision]
    assert 0.8 < stored / (numbers * of_one) < most
    ours, theirs = answers(path, general.name), answers(path, native.name)
    close = {"int8": 0.01, "int4": 0.05, "fp32": 1e-5}[precision]
    assert np.linalg.norm(ours - theirs) < close * np.linalg.norm(theirs)
    assert {entry["status"] for entry in precast.verify(path)["variants"].values()} == {"verified"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("once"), "bert", BASE, BERT, "int8")[0]


def _general(path: Path) -> Variant:
    return Artifact.open(path).manifest.components["encoder"].variants["cpu-int8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 127 * 9}, r"as a weight of 1143 x \d+, which takes \d+ bytes, and the file has \d+"),
        ({"bits": 4}, r"which takes \d+ bytes, and the file has \d+: the artifact was not made by precast"),
        ({"weight": "weights/missing"}, "reads weights/missing, which cannot be opened: .*No such file"),
        ({"what": "table"}, "what must be one of"),
        ({"rows": "9"}, "rows must be an integer"),
    ],
)
def test_what_does_not_fit_its_file_is_refused(artifact: Path, change: dict[str, Any], message: str) -> None:
    variant = _general(artifact)
    rules = variant.session["initializers"]
    name, rule = next((name, rule) for name, rule in rules.items() if rule["what"] == "matrix")
    wrong = {**variant.session, "initializers": {**rules, name: {**rule, **change}}}
    with pytest.raises(precast.PrecastError, match=message):
        backend_for("onnxruntime", "CPUExecutionProvider").load(artifact / variant.graph, session=wrong, threads=1)


def test_another_shape_than_the_graphs_is_refused(artifact: Path) -> None:
    """The arrays fit their files, and not the graph: ONNX Runtime's own check."""
    variant = _general(artifact)
    rules = dict(variant.session["initializers"])
    matrices = [name for name, rule in rules.items() if rule["what"] == "matrix"]
    wide, narrow = (max(matrices, key=lambda name: sign * rules[name]["rows"]) for sign in (1, -1))
    wrong = {**variant.session, "initializers": {**rules, narrow: rules[wide]}}
    with pytest.raises(BackendError, match="could not load"):
        backend_for("onnxruntime", "CPUExecutionProvider").load(artifact / variant.graph, session=wrong, threads=1)


def test_one_weight_is_taken_apart_once(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from precast.runtime import initializers

    taken = []
    real = initializers._Blocks.__init__
    monkeypatch.setattr(
        initializers._Blocks, "__init__", lambda self, *given: (taken.append(given[0].rows), real(self, *given))[1]
    )
    rules = json.loads(json.dumps(_general(artifact).session["initializers"]))
    found = dict(made(artifact, rules, "graph"))
    assert found.keys() == rules.keys()
    assert len(taken) == len({rule["weight"] for rule in rules.values()})


def test_weights_of_the_same_bytes_keep_their_shapes(tmp_path: Path) -> None:
    """Zeros of two shapes are one file; each initializer is made as its own rule says."""
    rules = {
        name: {"weight": "zeros", "layout": "blocks", "what": "matrix", "rows": rows, "depth": depth, "bits": 8,
               "block": 32, "zeros": "none"}
        for name, rows, depth in (("a", 20, 32), ("b", 32, 30), ("c", 16, 64))
    }  # fmt: skip
    (tmp_path / "zeros").write_bytes(bytes(2 * (32 * 16 + 32)))
    found = dict(made(tmp_path, rules, "graph"))
    assert {name: array.shape for name, array in found.items()} == {"a": (32, 20), "b": (30, 32), "c": (64, 16)}
