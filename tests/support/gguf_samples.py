"""Tiny GGUF files, written by ggml's own writer from models that transformers builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

HIDDEN, LAYERS, HEADS, GROUPS, INNER, VOCAB, POSITIONS = 64, 2, 4, 2, 96, 352, 48

WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def sentencepiece_tokens() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and kinds as sentencepiece's BPE trainer leaves them: bytes, then unions, then characters."""
    unions = ["▁t", "he", "▁the", "in", "▁a", "er", "on", "▁w", "or", "ld", "orld", "▁world", "ll", "ello", "aa", "aaa"]
    unions += ["▁▁", "日本", "an", "▁an", "re", "▁h", "▁hello", "el", "lo", "ell"]
    characters = sorted({character for union in unions for character in union} | set("bcdfgimsuxyz.,!?HTW本語日é"))
    tokens = [*WORDS, *unions, *characters, "<tag>", "<|im_end|>", "\n\n"]
    scores = [0.0] * len(WORDS) + [-float(i) for i in range(len(unions) + len(characters))] + [0.0] * 3
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(unions) + len(characters)) + [4, 3, 4]
    return tokens, scores, kinds


def byte_level_tokens() -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and kinds of a byte-level vocabulary."""
    alphabet = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelling = {byte: chr(byte) for byte in alphabet}
    spelling |= {byte: chr(256 + n) for n, byte in enumerate(b for b in range(256) if b not in spelling)}
    tokens = [spelling[byte] for byte in range(256)]
    merges = [
        "h e",
        "l l",
        "he ll",
        "hell o",
        "Ġ w",
        "o r",
        "Ġw or",
        "l d",
        "Ġwor ld",
        "Ġ Ġ",
        "1 2",
        "12 3",
        "Ċ Ċ",
        "' s",
    ]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    return tokens, merges, [1] * (len(tokens) - 4) + [3, 3, 3, 4]


def add_tokenizer(writer: gguf.GGUFWriter, model: str, pre: str | None = None, **flags: Any) -> None:
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    if model == "llama":
        tokens, scores, kinds = sentencepiece_tokens()
        writer.add_token_scores(scores)
        ids = {"bos": 1, "eos": 2, "unk": 0}
    else:
        tokens, merges, kinds = byte_level_tokens()
        writer.add_token_merges(merges)
        ids = {"bos": tokens.index("<|endoftext|>"), "eos": tokens.index("<|im_end|>")}
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name, index in (ids | flags.pop("ids", {})).items():
        getattr(writer, f"add_{name}_token_id")(index)
    for name, value in flags.items():
        getattr(writer, f"add_{name}")(value)


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to llama's queries and keys."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def _decoder_names(gemma: bool) -> dict[str, str]:
    second = "post_attention_norm" if gemma else "ffn_norm"
    leaves = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": second,
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        **{f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"},
        **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    return names | {
        f"model.layers.{layer}.{theirs}": f"blk.{layer}.{ours}"
        for layer in range(LAYERS)
        for theirs, ours in leaves.items()
    }


def _gpt2_names() -> dict[str, str]:
    leaves = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    leaves |= {"ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    names = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}
    return {**names, "lm_head": "output"} | {
        f"transformer.h.{layer}.{theirs}": f"blk.{layer}.{ours}"
        for layer in range(LAYERS)
        for theirs, ours in leaves.items()
    }


def _config(architecture: str, **more: Any) -> Any:
    common = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, n_inner=INNER, **common | more
        )
    common |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    common |= {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "max_position_embeddings": POSITIONS}
    common |= more
    if architecture == "gemma3":
        return transformers.Gemma3TextConfig(
            **{"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 32} | common
        )
    return {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[architecture](**common)


def random_model(architecture: str, **more: Any) -> Any:
    """A causal language model of transformers with random weights everywhere, also in norms and biases."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(_config(architecture, **more)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


def write_model(
    path: Path,
    architecture: str,
    state: Mapping[str, torch.Tensor],
    *,
    kind: str = "F32",
    tied: bool = False,
    parts: int = 0,
    extra: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    tokenizer: bool = False,
) -> Path:
    """The file llama.cpp's converter makes of such a model; matrices in the ggml type ``kind``."""
    options = {"split_max_tensors": parts} if parts else {}
    writer = gguf.GGUFWriter(path, architecture, **options)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(GROUPS)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(1e6 if architecture == "gemma3" else 1e4)
    if architecture == "gemma3":
        writer.add_key_length(32)
        writer.add_value_length(32)
        writer.add_sliding_window(16)
    extra(writer)
    if tokenizer:
        add_tokenizer(writer, "llama")
    names = _gpt2_names() if architecture == "gpt2" else _decoder_names(architecture == "gemma3")
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if stem not in names or (tied and stem == "lm_head"):
            continue
        value = tensor.detach()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            value = permute(value, HEADS if "q_proj" in name else GROUPS)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            value = value + 1
        if architecture == "gpt2" and ".c_" in name and leaf == "weight":
            value = value.t()
        array = value.contiguous().numpy()
        if array.ndim == 2 and kind != "F32":
            writer.add_tensor(f"{names[stem]}.{leaf}", gguf.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(f"{names[stem]}.{leaf}", array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if not parts else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
