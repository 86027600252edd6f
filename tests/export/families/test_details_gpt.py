"""GPT and its relatives: configs as they are published, names of older checkpoints, configs that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from support import DATA
from support.oracle import TensorSource, sources, upstream

from precast.export.families import find_family
from precast.export.heads import CAUSAL_LM
from precast.export.reference import build
from precast.runtime.errors import ConfigError

Tensors = dict[str, TensorSource]

# Keys of config.json files in the wild, from memory: what old versions of upstream wrote, and other programs.
PUBLISHED: dict[str, dict[str, Any]] = json.loads((DATA / "published_gpt_configs.json").read_text())
CHANNELS = ("hidden_size",)
LAYERS = ("layers", "num_hidden_layers")
HEADS = ("heads", "num_attention_heads")
POSITIONS = ("positions", "max_position_embeddings")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood(name: str) -> None:
    """Every key is known, and the sizes are those that upstream reads."""
    config = PUBLISHED[name]
    spec: Any = find_family(config["model_type"]).read(config)
    theirs = transformers.AutoConfig.for_model(**config)
    for names in (CHANNELS, LAYERS, HEADS, POSITIONS):
        ours = next(getattr(spec, key) for key in names if hasattr(spec, key))
        assert ours == getattr(theirs, names[-1]), names
    assert spec.tie_word_embeddings == theirs.tie_word_embeddings


def checkpoint(model_type: str, **overrides: Any) -> tuple[dict[str, Any], Tensors]:
    config, model = upstream(model_type, CAUSAL_LM, overrides)
    return config, sources(model)


def same(config: dict[str, Any], first: Tensors, second: Tensors) -> None:
    """Both checkpoints become one model, to the bit."""
    a, b = (build(config, tensors).model.state_dict() for tensors in (first, second))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


MASK = TensorSource(torch.ones(1, 1, 4, 4))
# model_type -> the prefix of its base model, buffers that were saved once.
OLD = {
    "gpt2": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias")),
    "gpt_bigcode": ("transformer.", ("bias", "h.1.attn.bias", "h.0.attn.masked_bias")),
    "gpt_neo": ("transformer.", ("h.0.attn.attention.bias", "h.0.attn.attention.masked_bias")),
    "gptj": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias", "h.1.attn.embed_positions")),
    "codegen": ("transformer.", ("h.0.attn.causal_mask", "h.1.attn.embed_positions")),
    "openai-gpt": ("transformer.", ("h.0.attn.bias", "position_ids")),
    "ctrl": ("transformer.", ("pos_encoding",)),
    "gpt_neox": (
        "gpt_neox.",
        ("layers.0.attention.bias", "layers.0.attention.masked_bias", "layers.1.attention.rotary_emb.inv_freq"),
    ),
    "gpt_neox_japanese": ("gpt_neox_japanese.", ("layers.0.attention.rotary_emb.inv_freq",)),
    "opt": ("model.", ()),
    "biogpt": ("biogpt.", ()),
    "xglm": ("model.", ("embed_positions.weights",)),
}


@pytest.mark.parametrize("model_type", OLD)
def test_names_of_old_checkpoints(model_type: str) -> None:
    """With and without the model's prefix, with buffers that are saved no more, without the tied head."""
    prefix, buffers = OLD[model_type]
    config, tensors = checkpoint(model_type)
    assert sum(name.startswith(prefix) for name in tensors) > 10
    short = {name.removeprefix(prefix): value for name, value in tensors.items()}
    same(config, tensors, short)
    same(config, tensors, {**tensors, **{prefix + name: MASK for name in buffers}})
    # A whole model's mask has a name that is nothing but one without its prefix.
    same(config, tensors, {**short, **{name: MASK for name in buffers if "." in name}})
    if config["tie_word_embeddings"]:
        kept = {name: value for name, value in tensors.items() if name not in ("lm_head.weight", "embed_out.weight")}
        same(config, tensors, kept)


def test_the_head_of_gpt_neox_had_another_name() -> None:
    config, tensors = checkpoint("gpt_neox")
    old = {name.replace("lm_head.", "embed_out."): value for name, value in tensors.items()}
    assert "embed_out.weight" in old
    same(config, tensors, old)


@pytest.mark.parametrize(
    "old",
    [
        {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {
            "rotary_pct": 0.5,
            "partial_rotary_factor": 0.5,
            "rotary_emb_base": 500,
            "rope_theta": 500.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    ],
)
@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt_neox_japanese"])
def test_rotary_keys_of_both_versions_say_the_same(model_type: str, old: dict[str, Any]) -> None:
    family = find_family(model_type)
    new = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    specs: list[Any] = [family.read({**family.tiny, **keys}) for keys in (old, {"rope_parameters": new})]
    assert specs[0].rope == specs[1].rope
    assert specs[0].rope.size == 4
    # What is said nowhere is the family's own: a quarter of each head, or all of it.
    default: Any = family.read(family.tiny)
    assert default.rope.size == (2 if model_type == "gpt_neox" else 8)


@pytest.mark.parametrize(
    ("model_type", "keys", "message"),
    [
        ("gpt2", {"n_head": 5}, r"received 5 heads and 32 channels"),
        ("gpt_bigcode", {"n_head": 0}, r"received 0 heads and 32 channels"),
        ("gpt_bigcode", {"scale_attn_by_inverse_layer_idx": True}, r"only False is honoured"),
        ("gpt_bigcode", {"add_cross_attention": True}, r"only False is honoured"),
        ("gpt_neox", {"num_attention_heads": 3}, r"received 3 heads and 32 channels"),
        ("gpt_neox", {"rotary_pct": 0.4}, r"heads have 3 channels to turn in pairs"),
        ("gpt_neox", {"rotary_pct": 0.05}, r"heads have 0 channels to turn in pairs"),
        ("gpt_neox", {"rope_theta": 500.0}, r"'rope_theta' 500\.0 repeats 'rotary_emb_base', which is 10000\.0"),
        ("gpt_neox", {"partial_rotary_factor": 0.5}, r"repeats 'rotary_pct', which is 0\.25"),
        ("gpt_neox", {"rotary_pct": 1.5}, r"above 0 and at most 1; 1\.5"),
        ("gpt_neox", {"rope_parameters": {"rope_type": "longrope"}}, r"'longrope', which is not computed here"),
        ("gpt_neox_japanese", {"rotary_emb_base": -1.0}, r"are positive numbers; received \{'rope_theta': -1\.0\}"),
        ("gptj", {"rotary_dim": None}, r"an even number from 2 on; received None"),
        ("gptj", {"rotary_dim": 5}, r"an even number from 2 on; received 5"),
        ("gptj", {"rotary_dim": 10}, r"a head's 8 channels .* received 10"),
        ("codegen", {"n_head": 2}, r"'n_head' must be a multiple of 4: .* received 2"),
        ("opt", {"num_attention_heads": 5}, r"received 5 heads and 32 channels"),
        ("opt", {"layer_norm_elementwise_affine": False}, r"only True is honoured"),
        ("gpt_neo", {"attention_types": [[["global", "near"], 1]]}, r"holds near"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, r"makes 3 layers, and 'num_layers' is 2"),
        ("gpt_neo", {"attention_types": ["global"]}, r"holds pairs of a list of kinds"),
        ("gpt_neo", {"attention_types": [[["local"], 2]], "attention_layers": ["local", "global"]}, r"lists what"),
        ("gpt_neo", {"window_size": 0}, r"itself included: at least 1; received 0"),
        ("openai-gpt", {"afn": "gelu_new"}, r"unknown activation.*Known: relu, silu, swish, gelu"),
        ("openai-gpt", {"n_head": 7}, r"received 7 heads and 32 channels"),
        ("biogpt", {"num_attention_heads": 3}, r"received 3 heads and 32 channels"),
        ("xglm", {"d_model": 2, "attention_heads": 1}, r"'d_model' must be 4 at least.*received 2"),
        ("xglm", {"add_cross_attention": True}, r"only False is honoured"),
        ("ctrl", {"n_embd": 9, "n_head": 3}, r"'n_embd' must be even: .* received 9"),
        ("ctrl", {"n_inner": 9}, r"'n_inner' = 9 is not honoured here, and might change the computation"),
    ],
)
def test_configs_that_cannot_be_honoured(model_type: str, keys: dict[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({"model_type": model_type, **family.tiny, **keys})


def test_layers_of_gpt_neo_may_be_listed_or_made_of_repeats() -> None:
    family = find_family("gpt_neo")
    tiny = {key: value for key, value in family.tiny.items() if key != "attention_types"}
    listed: Any = family.read({**tiny, "attention_layers": ["local", "global"]})
    assert listed.kinds == ["local", "global"]
    default: Any = family.read({**tiny, "num_layers": 24})
    assert default.kinds == ["global", "local"] * 12
