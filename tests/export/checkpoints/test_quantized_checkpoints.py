"""Whole checkpoints of GPTQ, AWQ and GGUF: what an artifact computes is what upstream computes with their integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from support.gguf_samples import random_model, write_model
from support.oracle import sources
from support.quantized_samples import (
    AWQ,
    GPTQ,
    Held,
    checkpoint,
    error,
    gptq,
    integers,
    panels,
    products,
    report,
    values,
)

import precast
from precast.export.checkpoints.open import open_checkpoint
from precast.export.reference import build
from precast.graphs.dialects import blocks
from precast.runtime.artifact import Artifact
from precast.runtime.errors import WeightsError

EMBEDDING = "model.embeddings.words.weight"


@pytest.mark.parametrize("name", ["gptq", "gptq-sym-128", "awq"])
def test_int4_holds_the_checkpoints_integers(name: str, tmp_path: Path) -> None:
    config = {"gptq": GPTQ, "gptq-sym-128": {**GPTQ, "sym": True, "group_size": 128}, "awq": AWQ}[name]
    made = checkpoint(tmp_path / "model", config)
    artifact = precast.export_model(made.folder, tmp_path / "artifact", precision="int4")
    found = products(artifact, "cpu-int4")
    assert set(made.layers) | {"lm_head.weight", EMBEDDING} == set(found)
    for key, layer in made.layers.items():
        at, weight = found[key].attributes, found[key].exact
        assert (at["bits"], at["block_size"]) == (4, 32 if config["group_size"] == 32 else 64 if at["K"] == 64 else 32)
        np.testing.assert_array_equal(weight, layer.weight, err_msg=key)
    assert report(artifact, "cpu-int4") == {}
    if "cpu-int4-native" in Artifact.open(artifact).manifest.components["decoder"].variants:
        packed = panels(artifact, "cpu-int4-native")
        for key in made.layers:
            expected = blocks.panels(found[key].weight, found[key].scales, found[key].zeros, 4)
            np.testing.assert_array_equal(packed[key], expected, err_msg=key)
    # With the plain weights rounded alike, what is left is the rounding of activations to 8 bits.
    exact = made.model
    with torch.no_grad():
        exact.lm_head.weight.copy_(torch.from_numpy(found["lm_head.weight"].exact))
        exact.model.embed_tokens.weight.copy_(torch.from_numpy(found[EMBEDDING].exact))
    for variant in Artifact.open(artifact).manifest.components["decoder"].variants:
        assert error(artifact, variant, exact) < 0.02, variant


def test_float_and_8_bits_of_what_4_bits_hold(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "model", GPTQ)
    artifact = precast.export_model(made.folder, tmp_path / "artifact")
    assert error(artifact, "cpu-fp32", made.model) < 1e-5
    precast.export_model(made.folder, artifact, precision="int8", add=True)
    found = products(artifact, "cpu-int8")
    for key, layer in made.layers.items():
        assert found[key].attributes["bits"] == 8  # 4 bits would be multiplied by rows of 8
        np.testing.assert_array_equal(found[key].exact, layer.weight, err_msg=key)
    assert found["lm_head.weight"].attributes["bits"] == 8
    for variant in ("cpu-int8", "cpu-int8-native"):
        if variant in Artifact.open(artifact).manifest.components["decoder"].variants:
            assert error(artifact, variant, made.model) < 0.02


def test_8_bits_are_kept_in_8_and_rounded_anew_in_4(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "model", {**GPTQ, "bits": 8, "sym": True})
    artifact = precast.export_model(made.folder, tmp_path / "artifact", precision="int8")
    found = products(artifact, "cpu-int8")
    for key, layer in made.layers.items():
        np.testing.assert_array_equal(found[key].exact, layer.weight, err_msg=key)
    precast.export_model(made.folder, artifact, precision="int4", add=True)
    reason = "Linear: the checkpoint's blocks are quantised anew: it has 8 bits"
    assert report(artifact, "cpu-int4") == {reason: len(made.layers)}


def test_reordered_inputs_are_exact_in_fp32_and_rounded_anew_in_int4(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "model", {**GPTQ, "desc_act": True}, order=True)
    artifact = precast.export_model(made.folder, tmp_path / "artifact")
    assert error(artifact, "cpu-fp32", made.model) < 1e-5
    precast.export_model(made.folder, artifact, precision="int8", add=True)
    reason = "its groups are not of neighbouring inputs (desc_act)"
    assert report(artifact, "cpu-int8") == {
        f"Linear: the checkpoint's blocks are quantised anew: {reason}": len(made.layers)
    }
    assert error(artifact, "cpu-int8", made.model) < 0.02


def test_biases_of_zeros_that_the_model_does_not_have(tmp_path: Path) -> None:
    """AutoGPTQ wrote them for every layer."""

    def change(tensors: dict[str, torch.Tensor], value: float = 0.0) -> None:
        for name in [name for name in tensors if name.endswith(".scales")]:
            bias = torch.full((tensors[name].shape[1],), value, dtype=torch.float16)
            tensors[name.replace("scales", "bias")] = bias

    made = checkpoint(tmp_path / "model", GPTQ, change=change)
    tensors = open_checkpoint(made.folder).tensors
    reference = build(json.loads((made.folder / "config.json").read_text()), tensors)
    assert "model.layers.0.mlp.up_proj.bias" in reference.ignored
    wrong = checkpoint(tmp_path / "wrong", GPTQ, change=lambda tensors: change(tensors, 0.5))
    with pytest.raises(WeightsError, match=r"Not understood \(14\):\n  model\.layers\.0\.mlp\.down_proj\.bias"):
        build(json.loads((wrong.folder / "config.json").read_text()), open_checkpoint(wrong.folder).tensors)


def test_conv1d_layers_of_gpt2_are_stored_as_linear_ones() -> None:
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=16, vocab_size=40, n_inner=64)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    found: dict[str, Any] = dict(sources(model))
    for name, parameter in model.named_parameters():
        if ".c_" in name and name.endswith("weight"):
            made = integers(parameter.shape[1], parameter.shape[0])
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(made.weight.T.copy()))
            del found[name]
            found |= {name.replace("weight", part): Held(value) for part, value in gptq(made).items()}
    read = {**config.to_dict(), "architectures": ["GPT2LMHeadModel"], "quantization_config": GPTQ}
    reference = build(read, found)
    state = {name: value.detach().numpy() for name, value in model.named_parameters()}
    kept = {tuple(parameter.shape): find() for parameter, find in reference.blocks.items()}
    assert len(reference.blocks) == 6 and all(not item.unfit and not item.transposed for item in kept.values())
    for parameter, find in reference.blocks.items():
        np.testing.assert_array_equal(values(find(), parameter.shape[1]), parameter.numpy())
    ours = {name: value.numpy() for name, value in reference.model.named_parameters()}
    square = state["transformer.h.0.attn.c_proj.weight"].T
    assert any(value.shape == (32, 32) and np.array_equal(value, square) for value in ours.values())


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.scales"][0, 0] = float("nan")

    made = checkpoint(tmp_path / "model", GPTQ, change=change)
    with pytest.raises(WeightsError, match=r"these hold NaN or Inf: model\.layers\.1\.mlp\.up_proj\.weight \(32 of"):
        precast.export_model(made.folder, tmp_path / "artifact", precision="int4")


@pytest.mark.parametrize(
    ("kind", "precision", "kept"),
    [("Q4_0", "int4", True), ("Q4_0", "int8", True), ("Q8_0", "int8", True), ("Q5_0", "int8", True),
     ("Q8_0", "int4", False), ("Q5_0", "int4", True),
     ("Q4_1", "int4", True), ("Q4_1", "int8", True), ("Q5_1", "int8", True)],
)  # fmt: skip
def test_an_artifact_of_a_gguf_file_holds_its_integers(kind: str, precision: str, kept: bool, tmp_path: Path) -> None:
    model = random_model("llama", tie_word_embeddings=True)
    path = write_model(tmp_path / "tiny.gguf", "llama", model.state_dict(), kind=kind, tied=True)
    artifact = precast.export_model(path, tmp_path / "artifact", precision=precision)
    exact = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                rows = gguf.quantize(parameter.numpy(), gguf.GGMLQuantizationType[kind])
                exact[name] = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
                parameter.copy_(torch.from_numpy(exact[name].copy()))
    found = products(artifact, f"cpu-{precision}")
    assert len(found) == 16  # the embedding is the head
    for key, product in found.items():
        name = "model.embed_tokens.weight" if key in ("lm_head.weight", EMBEDDING, "MatMulNBits") else key
        # Zero points that are floats keep the eleven bits of half floats.
        same = np.abs(product.exact - exact[name]).max() <= 1e-3 * np.abs(exact[name]).max() * kind.endswith("_1")
        assert same == kept, key
    declined = report(artifact, f"cpu-{precision}")
    assert sum(declined.values()) == (0 if kept else 16), declined
    assert all(name.split(": ", 2)[1] == "the checkpoint's blocks are quantised anew" for name in declined)
    if kept:
        for variant in Artifact.open(artifact).manifest.components["decoder"].variants:
            assert error(artifact, variant, model) < 0.02, variant


def test_a_turned_gpt2_of_ggml_keeps_its_integers(tmp_path: Path) -> None:
    state = random_model("gpt2").state_dict()
    path = write_model(tmp_path / "tiny.gguf", "gpt2", state, kind="Q4_0", tied=True)
    artifact = precast.export_model(path, tmp_path / "artifact", precision="int4")
    assert report(artifact, "cpu-int4").keys() <= {"Gather: not of tokens"}
    written = state["transformer.h.0.attn.c_attn.weight"].T.contiguous().numpy()
    rows = gguf.quantize(written, gguf.GGMLQuantizationType.Q4_0)
    expected = gguf.dequantize(rows, gguf.GGMLQuantizationType.Q4_0)
    found = [product.exact for product in products(artifact, "cpu-int4").values()]
    for part in np.split(expected, 3):
        assert sum(np.array_equal(weight, part) for weight in found) == 1
