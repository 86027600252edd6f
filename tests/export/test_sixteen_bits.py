"""Checkpoints in bfloat16 and float16: the artifact holds what they hold, and computes in float32 as upstream does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import oracle

import precast
from precast.export.exporter import export_model
from precast.export.heads import BASE, CAUSAL_LM, SEQ2SEQ_LM, Head
from precast.runtime import kernels
from precast.runtime.artifact import Artifact

SIZES = {"hidden_size": 128, "intermediate_size": 264, "num_attention_heads": 4, "num_key_value_heads": 2}
CASES: list[tuple[str, Head, dict[str, Any], torch.dtype]] = [
    ("llama", CAUSAL_LM, {**SIZES, "vocab_size": 520, "tie_word_embeddings": True}, torch.bfloat16),
    ("gpt2", CAUSAL_LM, {}, torch.float16),  # its weights lie the other way round
    ("t5", SEQ2SEQ_LM, {}, torch.bfloat16),
    ("bert", BASE, {}, torch.float16),
]


def checkpoints(folder: Path, model_type: str, head: Head, overrides: dict[str, Any], dtype: torch.dtype) -> list[Path]:
    """The same numbers in 16 bits and in float32."""
    config, model = oracle.upstream(model_type, head, overrides)
    oracle.calm(model)
    narrow = oracle.save_checkpoint(folder / "narrow", config, model.to(dtype))
    wide = folder / "wide"
    wide.mkdir()
    (wide / "config.json").write_text((narrow / "config.json").read_text())
    tensors = {name: value.float() for name, value in load_file(narrow / "model.safetensors").items()}
    save_file(tensors, wide / "model.safetensors", metadata={"format": "pt"})
    return [narrow, wide]


@pytest.mark.parametrize(("model_type", "head", "overrides", "dtype"), CASES, ids=lambda value: str(value)[:20])
def test_what_was_narrow_stays_so(
    model_type: str, head: Head, overrides: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    narrow, wide = checkpoints(tmp_path, model_type, head, overrides, dtype)
    made = [Artifact.open(export_model(source, tmp_path / f"{source.name}-out")) for source in (narrow, wide)]
    # What numbers are is all that counts: the same artifact, but for what it says of its source and its making.
    for name, component in made[0].manifest.components.items():
        for variant, other in zip(component.variants.values(), made[1].variants(name), strict=True):
            assert (variant.weights, variant.fingerprint) == (other.weights, other.fingerprint)
            halves = variant.operators.get("precast.cpu::HalfLinear", 0)
            assert (halves > 0) == (variant.isa is not None)
            assert variant.isa == (kernels.KNOWN[1] if halves else None)
    held = sum(value.nbytes for value in load_file(narrow / "model.safetensors").values())
    stored = sum(record.size for path, record in made[0].manifest.files.items() if path.startswith("weights/"))
    assert stored < 1.35 * held  # whole panels of 16 columns, and norms in float32: much, where all is so small
    assert {entry["status"] for entry in precast.verify(made[0].path)["variants"].values()} == {"verified"}


def test_tokens_are_upstreams(tmp_path: Path) -> None:
    config, model = oracle.upstream("llama", CAUSAL_LM, {**SIZES, "tie_word_embeddings": True})
    oracle.calm(model)
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model.to(torch.bfloat16))
    path = export_model(source, tmp_path / "out")
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], (2, 9))
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = model.float().generate(torch.from_numpy(ids), pad_token_id=0, **how).numpy()
    for variant in ("cpu-fp32", "cpu-fp32-native"):
        found = precast.load(path, variant=variant).generate(ids, **how)
        np.testing.assert_array_equal(found, expected)


def test_weights_of_float32_ask_for_no_newer_kernels(tmp_path: Path) -> None:
    config, model = oracle.upstream("bert", BASE)
    path = export_model(oracle.save_checkpoint(tmp_path / "checkpoint", config, model), tmp_path / "out")
    found = {variant.name: variant.isa for variant in Artifact.open(path).variants("encoder")}
    assert found == {"cpu-fp32": None, "cpu-fp32-native": kernels.KNOWN[0]}
