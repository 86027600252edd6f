"""config.json and generation_config.json out of a GGUF file's metadata, under Hugging Face's keys.

What llama.cpp writes and what it takes for granted: convert_hf_to_gguf.py and llama-model.cpp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from precast.export.checkpoints.gguf.metadata import Metadata
from precast.export.checkpoints.gguf.reader import GGUF
from precast.export.checkpoints.gguf.rope import rope_scaling
from precast.export.checkpoints.gguf.vocabulary import Vocabulary
from precast.export.checkpoints.gguf.weights import is_tied
from precast.runtime.errors import ConfigError, UnsupportedModelError, listing

__all__ = ["generation_config", "model_config"]

_GEMMA3_27B_LAYERS = 62  # the one Gemma 3 whose queries are scaled otherwise; llama.cpp knows it by this as well


def model_config(model: GGUF, vocabulary: Vocabulary) -> dict[str, Any]:
    """Raises ``UnsupportedModelError`` for an architecture not read here, ``ConfigError`` for what contradicts."""
    metadata = model.metadata
    architecture = metadata.architecture
    if (kind := metadata.text("general.type", "model")) != "model":
        raise UnsupportedModelError(
            f"{metadata.file} holds a {kind!r:.40}, which goes with a model and is none. Give the model's file."
        )
    if architecture not in _BUILDERS:
        raise UnsupportedModelError(
            f"{metadata.file} is of the architecture {architecture!r:.60}; of GGUF files, these are read: "
            f"{listing(_BUILDERS)}. Export the model's checkpoint instead."
        )
    if metadata.whole("{arch}.expert_count", 0):
        raise UnsupportedModelError(
            f"{metadata.file} is a mixture of experts, which is not read from GGUF files. Export the model's "
            "checkpoint instead."
        )
    embedding = model.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConfigError(f"{metadata.file} has no matrix token_embd.weight, so it is no language model.")
    rows, hidden = embedding.shape
    if hidden != metadata.whole("{arch}.embedding_length"):
        raise ConfigError(
            f"{metadata.file}: {architecture}.embedding_length is {metadata.whole('{arch}.embedding_length')}, and "
            f"token_embd.weight has rows of {hidden}. Convert the model anew."
        )
    if len(vocabulary.tokens) > rows:
        raise ConfigError(
            f"{metadata.file} has {len(vocabulary.tokens)} tokens, and token_embd.weight rows for {rows} of them. "
            "Convert the model anew."
        )
    built = _BUILDERS[architecture](model)
    _refuse_others(metadata)
    return {
        **built,
        "vocab_size": rows,
        "tie_word_embeddings": is_tied(model),
        "bos_token_id": vocabulary.bos,
        "eos_token_id": _one_or_all(vocabulary.ends),
        "pad_token_id": vocabulary.pad,
    }


# Keys of any architecture that change nothing where nobody asks for them: sizes that tensors state, notes, what only
# embedding models do, what belongs to rotary positions or to a kind of their scaling.
_INERT: Final = frozenset(
    """
    vocab_size tensor_data_layout pooling_type rope.scaling.finetuned rope.scaling.original_context_length
    rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow rope.dimension_count rope.freq_base
    attention.key_length attention.value_length attention.head_count_kv expert_used_count
    """.split()
)
# And those that change nothing while they say this.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
}


def _refuse_others(metadata: Metadata) -> None:
    """Every key of the architecture is understood, known not to matter, or an error."""
    prefix = f"{metadata.architecture}."
    for key in sorted(set(metadata.values) - metadata.asked):
        name, value = key.removeprefix(prefix), metadata.values[key]
        if name == key or name in _INERT or (np.isscalar(value) and value in _NEUTRAL.get(name, ())):
            continue
        raise UnsupportedModelError(
            f"{metadata.file}: {key} is {value!r:.80}, which is not honoured here and might change the computation. "
            "Export the model's checkpoint instead."
        )


def generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """The ids that begin, end and pad a generation."""
    ids = {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": _one_or_all(vocabulary.ends),
        "pad_token_id": vocabulary.pad,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _one_or_all(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else ids[0] if ids else None


def _common(model: GGUF) -> dict[str, Any]:
    """What llama, qwen2 and gemma3 state alike."""
    metadata = model.metadata
    heads = _positive(model, "{arch}.attention.head_count")
    hidden = _positive(model, "{arch}.embedding_length")
    rotary = metadata.whole("{arch}.rope.dimension_count", None)
    size = _positive(model, "{arch}.attention.key_length", hidden // heads)
    values = metadata.whole("{arch}.attention.value_length", size)
    if values != size or (rotary is not None and rotary != size):
        raise UnsupportedModelError(
            f"{metadata.file}: heads must have one size for queries, keys, values and rotary embedding; they have "
            f"{size}, {values} and {rotary}. Export the model's checkpoint instead."
        )
    return {
        "hidden_size": hidden,
        "intermediate_size": _positive(model, "{arch}.feed_forward_length"),
        "num_hidden_layers": _layers(model),
        "num_attention_heads": heads,
        "num_key_value_heads": _positive(model, "{arch}.attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": _positive(model, "{arch}.context_length"),
        "rms_norm_eps": metadata.number("{arch}.attention.layer_norm_rms_epsilon"),
        "attention_dropout": 0.0,
    }


def _layers(model: GGUF) -> int:
    """As many as the metadata say, and the file has."""
    stated = _positive(model, "{arch}.block_count")
    held = {name.split(".")[1] for name in model.tensors if name.startswith("blk.")}
    if len(held) != stated:
        raise ConfigError(
            f"{model.metadata.file}: {model.metadata.architecture}.block_count is {stated}, and the file holds tensors "
            f"of {len(held)} blocks. Convert the model anew."
        )
    return stated


def _positive(model: GGUF, key: str, *default: int) -> int:
    value = model.metadata.whole(key, *default)
    if value < 1:
        key = key.replace("{arch}", model.metadata.architecture)
        raise ConfigError(f"{model.metadata.file}: {key} must be positive; it is {value}. Convert the model anew.")
    return value


def _rope(model: GGUF, size: int) -> dict[str, Any]:
    theta = model.metadata.number("{arch}.rope.freq_base", 10_000.0)
    if theta <= 0:
        raise ConfigError(f"{model.metadata.file}: rope.freq_base must be positive; it is {theta}.")
    return {"rope_theta": theta, "rope_scaling": rope_scaling(model, theta, size)}


def _llama(model: GGUF) -> dict[str, Any]:
    """Llama, or Mistral where there is a window: llama.cpp has one architecture for both."""
    common = _common(model)
    common |= {**_rope(model, common["head_dim"]), "hidden_act": "silu"}
    if window := model.metadata.whole("{arch}.attention.sliding_window", 0):
        return {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            **common,
            "sliding_window": window,
        }
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **common,
        "attention_bias": "blk.0.attn_q.bias" in model.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in model.tensors,
    }


def _qwen2(model: GGUF) -> dict[str, Any]:
    common = _common(model)
    if common["head_dim"] * common["num_attention_heads"] == common["hidden_size"]:
        common.pop("head_dim")  # no Qwen2 config states it, nor does upstream's class know it
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        **common,
        **_rope(model, common.get("head_dim", common["hidden_size"] // common["num_attention_heads"])),
        "hidden_act": "silu",
        "use_sliding_window": False,
    }


def _gemma3(model: GGUF) -> dict[str, Any]:
    metadata, common = model.metadata, _common(model)
    layers, size = common["num_hidden_layers"], common["head_dim"]
    pattern = 6
    stated = metadata.value("gemma3.attention.sliding_window_pattern")
    if type(stated) is int and stated > 0:
        pattern = stated
    elif stated is not None:
        raise UnsupportedModelError(
            f"{metadata.file}: gemma3.attention.sliding_window_pattern must be a positive number, every how many "
            f"layers one sees everything; it is {stated!r:.80}. Export the model's checkpoint instead."
        )
    scalar: float = size
    if layers == _GEMMA3_27B_LAYERS:
        scalar = common["hidden_size"] // common["num_attention_heads"]
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        **common,
        **_rope(model, size),
        "rope_local_base_freq": metadata.number("gemma3.rope.freq_base_swa", 10_000.0),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": _positive(model, "gemma3.attention.sliding_window"),
        "layer_types": ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)],
        "attn_logit_softcapping": metadata.number("gemma3.attn_logit_softcapping", None),
        "final_logit_softcapping": metadata.number("gemma3.final_logit_softcapping", None),
        "use_bidirectional_attention": False,
    }


def _gpt2(model: GGUF) -> dict[str, Any]:
    metadata = model.metadata
    hidden, positions = _positive(model, "gpt2.embedding_length"), _positive(model, "gpt2.context_length")
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": hidden,
        "n_head": _positive(model, "gpt2.attention.head_count"),
        "n_layer": _layers(model),
        "n_positions": positions,
        "n_ctx": positions,
        "n_inner": _positive(model, "gpt2.feed_forward_length"),
        "layer_norm_epsilon": metadata.number("gpt2.attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


_BUILDERS: Final[Mapping[str, Callable[[GGUF], dict[str, Any]]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
}
