"""A Llama checkpoint as a GGUF file, quantised as llama.cpp's own tools would.

llama.cpp's converter is not in a package: names, metadata and the order of rotary channels are its (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["rotary_pairs", "tensor_name", "write"]

_TYPES = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensor_name(name: str) -> str:
    """GGUF's name of a Llama checkpoint's tensor."""
    stem = name.removesuffix(".weight")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.weight"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{int(layer)}.{_BLOCK[rest]}.weight"


def rotary_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * D, H]: upstream rotates channel i with i + D/2, GGUF's Llama 2i with 2i + 1."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(checkpoint: Path, path: Path, precision: str) -> None:
    """``checkpoint`` (llama, one or several safetensors files) as GGUF; one dimension stays in fp32."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama":
        raise ValueError(f"GGUF is written for llama here; {checkpoint} is {config['model_type']}.")
    kind = gguf.GGMLQuantizationType[_TYPES[precision]]
    writer = gguf.GGUFWriter(path, "llama")
    _metadata(writer, config)
    for name, weight in _tensors(checkpoint):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if "q_proj" in name:
            weight = rotary_pairs(weight, config["num_attention_heads"])
        elif "k_proj" in name:
            weight = rotary_pairs(weight, config["num_key_value_heads"])
        target = tensor_name(name)
        if weight.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(target, np.ascontiguousarray(weight, dtype=np.float32))
        else:
            # llama.cpp keeps the head at 8 bits when the rest has 4 (Q6_K, which gguf cannot write, is its own choice).
            head = target == "output.weight" or (target == "token_embd.weight" and config.get("tie_word_embeddings"))
            used = gguf.GGMLQuantizationType.Q8_0 if head else kind
            writer.add_tensor(target, gguf.quants.quantize(weight, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(writer: Any, config: dict[str, Any]) -> None:
    import gguf

    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    # The server is given ids, never text, but wants a vocabulary.
    special = ["<unk>", "<s>", "</s>"]
    words = [f"\u2581{number}" for number in range(len(special), config["vocab_size"])]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(special + words)
    writer.add_token_scores([0.0] * config["vocab_size"])
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * len(words)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                yield name, opened.get_tensor(name)
