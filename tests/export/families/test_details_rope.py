"""Rotary parameters of config.json, model by model: what upstream makes of them, or a refusal."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from precast.export.families import find_family
from precast.runtime.errors import ConfigError

Table = dict[str, Any]
LLAMA3: Table = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PARTIAL = ("rope_parameters.partial_rotary_factor",)  # read where a model turns a part of each head
# Keys of config.json; what of them is not read; whether upstream fails on them where a model turns whole heads.
TABLES: list[tuple[Table, tuple[str, ...], bool]] = [
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, PARTIAL, False),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}}, PARTIAL, False),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, (), True),
    ({"rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.5}}, (), True),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}}, (), True),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 1}}, (), False),
    ({"rope_parameters": {"factor": 2.0}}, ("rope_parameters.factor",), False),
    ({"rope_parameters": {"mrope_section": [1, 1, 2]}}, ("rope_parameters.mrope_section",), False),
    ({"rope_parameters": {"type": "linear", "factor": 2}}, (), False),
    ({"rope_parameters": {"type": "linear", "rope_type": "default", "factor": 2}}, ("rope_parameters.factor",), False),
    (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3, "note": "x"}},
        ("rope_parameters.beta_fast", "rope_parameters.note"),
        False,
    ),
    ({"rope_parameters": {**LLAMA3, "attention_factor": 2.0}}, ("rope_parameters.attention_factor",), False),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": None}}, (), False),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 7.0}}, (), False),
    ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 7.0}}, (), False),
    (
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 50.0, "finetuned": True}},
        ("rope_scaling.finetuned",),
        False,
    ),
]
WHOLE = ("llama", "mistral", "qwen2", "gemma", "mixtral", "falcon")
PART = ("gpt_neox", "gpt_neox_japanese")


def _rotary(model: torch.nn.Module) -> Any:
    return next(part for part in model.modules() if type(part).__name__.endswith("RotaryEmbedding"))


@pytest.mark.parametrize("model_type", [*WHOLE, *PART])
def test_rotary_tables_are_upstreams(model_type: str) -> None:
    tiny = {**find_family(model_type).tiny, "num_hidden_layers": 1}
    if model_type == "mixtral":
        tiny["head_dim"] = 8  # upstream reads it as null otherwise where a scaling is YaRN's
    for keys, ignored, fails in TABLES:
        config = {"model_type": model_type, **tiny, **keys}
        theirs = transformers.AutoConfig.for_model(**copy.deepcopy(config))
        model = transformers.AutoModelForCausalLM.from_config(theirs, attn_implementation="eager").eval()
        if fails and model_type in WHOLE:
            with pytest.raises(RuntimeError, match="must match the size"):
                model(input_ids=torch.tensor([[1, 2]]))
            with pytest.raises(ConfigError, match=r"'partial_rotary_factor' 0.5 with 'rope_type' '.*' is not computed"):
                find_family(model_type).read(config)
            continue
        spec: Any = find_family(model_type).read(config)
        wanted = _rotary(model)
        made = spec.rope.module()
        np.testing.assert_allclose(made.frequencies.compute().numpy(), wanted.inv_freq.numpy(), rtol=3e-7)
        assert made.scale == pytest.approx(wanted.attention_scaling, rel=1e-12), keys
        expected = tuple(key for key in ignored if model_type in WHOLE or key != PARTIAL[0])
        assert find_family(model_type).ignored(config, spec) == expected


@pytest.mark.parametrize("model_type", WHOLE)
def test_a_part_that_upstream_does_not_read_is_not_read(model_type: str) -> None:
    family = find_family(model_type)
    config = {"model_type": model_type, **family.tiny}
    said = {**config, "partial_rotary_factor": 0.5}
    spec: Any = family.read(said)
    assert spec.rope == family.read(config).rope  # type: ignore[attr-defined]
    assert family.ignored(said, spec) == ("partial_rotary_factor",)
    theirs = transformers.AutoConfig.for_model(**said)
    model = transformers.AutoModelForCausalLM.from_config(theirs)
    np.testing.assert_allclose(spec.rope.module().frequencies.compute(), _rotary(model).inv_freq, rtol=3e-7)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 1.0}}},
        {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5, "rope_theta": 77.0}}},
        {"rope_parameters": {"sliding_attention": None, "full_attention": {"factor": 3.0}}},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_scaling": {"type": "linear", "factor": 8.0}},
        {
            "rope_scaling": {"factor": 8.0},
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": None},
        },
        {"rope_theta": 99.0, "rope_local_base_freq": 55.0},
    ],
)
def test_rotary_tables_by_kind_of_layer_are_upstreams(keys: Table) -> None:
    config = {"model_type": "gemma3_text", **find_family("gemma3_text").tiny, **keys}
    spec: Any = find_family("gemma3_text").read(config)
    theirs = transformers.AutoConfig.for_model(**copy.deepcopy(config))
    wanted = _rotary(transformers.AutoModelForCausalLM.from_config(theirs))
    for kind, made in (("full_attention", spec.rope), ("sliding_attention", spec.local_rope)):
        frequencies = getattr(wanted, f"{kind}_inv_freq").numpy()
        np.testing.assert_allclose(made.module().frequencies.compute().numpy(), frequencies, rtol=3e-7)


def test_scaling_by_the_longest_text_is_refused_because_upstreams_answers_hang_on_other_texts() -> None:
    """Why: the same text gives other values behind a longer one, in one call and in the next."""
    config = transformers.LlamaConfig(
        **{**find_family("llama").tiny, "max_position_embeddings": 8},
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.weight)
    torch.nn.init.normal_(model.model.layers[0].self_attn.k_proj.weight)
    text, longer = torch.arange(10)[None], torch.arange(30)[None]
    with torch.no_grad():
        alone = model(input_ids=text).logits
        model(input_ids=longer)
        behind = model(input_ids=text).logits
    assert (alone - behind).abs().max() > 1e-3
