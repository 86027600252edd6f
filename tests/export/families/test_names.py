"""Names that checkpoints of every family come with: of the base model, of wrappers, of losses; and what is told of
names that are missing or belong to an adapter."""

from __future__ import annotations

import re

import pytest
import torch
from support.oracle import TensorSource, sources, upstream

from precast.export.families import find_family, model_types
from precast.export.heads import CAUSAL_LM, SEQUENCE_CLASSIFICATION, Head
from precast.export.reference import Reference, build
from precast.runtime.errors import UnsupportedTaskError, WeightsError

EVERY = [(name, next(reversed(find_family(name).heads))) for name in model_types()]
ONE = TensorSource(torch.ones(2))


def same(first: Reference, second: Reference) -> None:
    a, b = first.model.state_dict(), second.model.state_dict()
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize(("model_type", "head"), EVERY, ids=[name for name, _ in EVERY])
def test_names_without_and_around_the_model_s(model_type: str, head: Head) -> None:
    """As upstream's base class saves them; as torch.compile and data-parallel wrappers do; beside a loss's buffer."""
    config, model = upstream(model_type, head)
    tensors = sources(model)
    whole = build(config, tensors)
    prefix = f"{model.base_model_prefix}."
    same(whole, build(config, {name.removeprefix(prefix): value for name, value in tensors.items()}))
    same(whole, build(config, {f"_orig_mod.module.{name}": value for name, value in tensors.items()}))
    beside = build(config, {**tensors, "loss_fct.weight": ONE, "criterion.pos_weight": ONE})
    same(whole, beside)
    assert set(beside.ignored) - set(whole.ignored) == {"loss_fct.weight", "criterion.pos_weight"}
    with pytest.raises(WeightsError, match=r"Not understood \(1\):\n  (\w+\.)?losses\.weight"):
        build(config, {**tensors, "losses.weight": ONE})


def test_prefixes_within_names_are_stripped_too() -> None:
    config, model = upstream("bert", SEQUENCE_CLASSIFICATION)
    tensors = sources(model)
    inner = {re.sub(r"(layer\.\d+\.)", r"\1_orig_mod.", name): value for name, value in tensors.items()}
    assert inner.keys() != tensors.keys()
    same(build(config, tensors), build(config, inner))
    same(build(config, tensors), build(config, {f"base_model.model.{name}": value for name, value in tensors.items()}))
    with pytest.raises(WeightsError, match=r"both 'classifier\.bias' once torch\.compile's .* '_orig_mod\.classifier"):
        build(config, {**tensors, "_orig_mod.classifier.bias": tensors["classifier.bias"]})


def test_an_adapter_that_was_not_merged_is_named() -> None:
    config, model = upstream("llama", CAUSAL_LM)
    adapted = {
        f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}": value
        for name, value in sources(model).items()
    }
    adapted["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = ONE
    with pytest.raises(WeightsError, match=r"hold a LoRA adapter that was not merged: .*merge_and_unload\(\)"):
        build(config, adapted)


@pytest.mark.parametrize(("model_type", "gone"), [("llama", "layers.1.mlp.up_proj"), ("gpt2", "h.1.mlp.c_fc.bias")])
@pytest.mark.parametrize("declared", [True, False])
def test_a_tied_model_that_misses_a_weight_is_told_which(model_type: str, gone: str, declared: bool) -> None:
    config, model = upstream(model_type, CAUSAL_LM, {"tie_word_embeddings": True})
    if not declared:
        del config["architectures"]
    tensors = {name: value for name, value in sources(model).items() if gone not in name and "lm_head" not in name}
    with pytest.raises(WeightsError, match=r"Missing \(1\):\n  model\.layers\.1\.mlp\.up_proj\.(weight|bias)"):
        build(config, tensors, "text-generation")


def test_an_untied_model_without_its_head_has_none() -> None:
    config, model = upstream("llama", CAUSAL_LM)
    tensors = {name: value for name, value in sources(model).items() if "lm_head" not in name}
    with pytest.raises(UnsupportedTaskError, match="no trained head for task 'text-generation'"):
        build(config, tensors)
