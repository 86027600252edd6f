"""What the benchmarks' llama.cpp peer writes: GGUF's names, and its order of rotary channels."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from support import ROOT

_FILE = ROOT / "benchmarks" / "peers" / "llamacpp" / "gguf_file.py"


@pytest.fixture(scope="module")
def gguf_file() -> Any:
    spec = importlib.util.spec_from_file_location("gguf_file", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.11.self_attn.o_proj.weight", "blk.11.attn_output.weight"),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
    ],
)
def test_names(gguf_file: Any, name: str, expected: str) -> None:
    assert gguf_file.tensor_name(name) == expected


def test_unknown_names_are_refused(gguf_file: Any) -> None:
    with pytest.raises(KeyError):
        gguf_file.tensor_name("model.layers.0.self_attn.q_norm.weight")


def test_rotary_channels_are_paired_within_each_head(gguf_file: Any) -> None:
    heads, size = 2, 6
    rows = np.arange(heads * size, dtype=np.float32)[:, None].repeat(3, axis=1)
    paired = gguf_file.rotary_pairs(rows, heads)[:, 0].reshape(heads, size)
    np.testing.assert_array_equal(paired, [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]])
