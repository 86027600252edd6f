"""GGUF files as checkpoints: weights, config and tokenizer held against transformers' own reading of the same files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from support import gguf_samples as samples
from support.gguf_samples import random_model, write_model
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from precast.export.checkpoints.gguf.repack import repack
from precast.export.checkpoints.open import open_checkpoint
from precast.export.families import find_family
from precast.runtime.auto import AutoModel, AutoTokenizer
from precast.runtime.errors import CheckpointError, ConfigError, InputError, UnsupportedModelError, WeightsError

ARCHITECTURES = ("llama", "qwen2", "gemma3", "gpt2")


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return {name: source.load() for name, source in open_checkpoint(path).tensors.items()}


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_the_models_own(architecture: str, tied: bool, tmp_path: Path) -> None:
    model = random_model(architecture, tie_word_embeddings=tied)
    state = model.state_dict()
    path = write_model(tmp_path / "m.gguf", architecture, state, tied=tied)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["tie_word_embeddings"] is tied
    expected = {name: value for name, value in state.items() if not (tied and name == "lm_head.weight")}
    assert set(checkpoint.tensors) == set(expected)
    for name, source in checkpoint.tensors.items():
        loaded = source.load()
        assert source.name == name and source.file_name == "m.gguf"
        assert source.dtype == loaded.dtype == torch.float32
        assert source.shape == tuple(loaded.shape) == tuple(expected[name].shape), name
        assert source.nbytes == loaded.numel() * 4
        # Only gemma's norms go through a sum.
        torch.testing.assert_close(loaded, expected[name], rtol=0, atol=1.2e-7)
        assert architecture == "gemma3" or torch.equal(loaded, expected[name])


def test_an_output_stored_twice_is_tied(tmp_path: Path) -> None:
    state = dict(random_model("gpt2").state_dict())
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    checkpoint = open_checkpoint(write_model(tmp_path / "m.gguf", "gpt2", state))
    assert "lm_head.weight" not in checkpoint.tensors
    assert checkpoint.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quantised_weights_and_config_are_what_transformers_loads(architecture: str, tmp_path: Path) -> None:
    """The same file through upstream's reader: same weights, and the logits of the config that is made here."""
    path = write_model(
        tmp_path / "m.gguf", architecture, random_model(architecture).state_dict(), kind="Q8_0", tokenizer=True
    )
    checkpoint = open_checkpoint(path)
    state = state_of(path)
    upstream = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=random_model(architecture))
    theirs = random_model(architecture)
    assert set(upstream["tensors"]) == set(state) == set(theirs.state_dict())
    for name, value in upstream["tensors"].items():
        assert torch.equal(state[name], value), name
    theirs.load_state_dict(upstream["tensors"])
    config = dict(checkpoint.config)
    ours = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(config.pop("model_type"), **config), dtype=torch.float32
    ).eval()
    ours.load_state_dict(state)
    ids = torch.arange(40)[None] % samples.VOCAB
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_raw_blocks_are_those_of_the_weight(architecture: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", architecture, random_model(architecture).state_dict(), kind="Q8_0")
    seen = 0
    for source in open_checkpoint(path).tensors.values():
        packed = source.packed
        assert (packed is not None) == (len(source.shape) == 2)
        if packed is not None:
            values = torch.from_numpy(repack(packed).dequantize())
            assert torch.equal(values.t() if packed.transposed else values, source.load())
            seen += packed.transposed
    assert (seen > 0) == (architecture == "gpt2")


def test_loading_leaves_the_file_and_other_tensors_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "qwen2", random_model("qwen2").state_dict())
    before = path.read_bytes()
    checkpoint = open_checkpoint(path)
    values = checkpoint.tensors["model.norm.weight"].load().clone()
    checkpoint.tensors["lm_head.weight"].load().zero_()
    checkpoint.release()
    assert torch.equal(checkpoint.tensors["model.norm.weight"].load(), values)
    assert path.read_bytes() == before


def test_split_models_are_one(tmp_path: Path) -> None:
    state = random_model("qwen2").state_dict()
    whole = state_of(write_model(tmp_path / "w.gguf", "qwen2", state))
    first = write_model(tmp_path / "m.gguf", "qwen2", state, parts=9)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) >= 2
    checkpoint = open_checkpoint(first)
    assert set(checkpoint.digests()) == {part.name for part in parts}
    for name, source in checkpoint.tensors.items():
        assert torch.equal(source.load(), whole[name])
    with pytest.raises(CheckpointError, match=rf"opened by its first part; give {first.name}"):
        open_checkpoint(parts[-1])
    renamed = tmp_path / "one.gguf"
    first.rename(renamed)
    with pytest.raises(CheckpointError, match=r"is one of \d parts of a model \(split.count\), so it must be named"):
        open_checkpoint(renamed)
    renamed.rename(first)
    data = parts[-1].read_bytes()
    parts[-1].write_bytes((tmp_path / "w.gguf").read_bytes())
    with pytest.raises(CheckpointError, match=r"must be part \d of \d by its own metadata.*it says None of None"):
        open_checkpoint(first)
    parts[-1].write_bytes(data)
    parts[-1].unlink()
    with pytest.raises(CheckpointError, match=rf"{parts[-1].name}, a part of the model, is missing beside the first"):
        open_checkpoint(first)


def test_tensors_of_no_such_model_are_refused(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_sinks.weight", np.ones(4, np.float32))

    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    with pytest.raises(WeightsError, match=r"holds tensors that llama models do not have.*blk\.0\.attn_sinks\.weight"):
        _ = open_checkpoint(path).tensors


# -- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_config_is_the_models_own(architecture: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", architecture, random_model(architecture).state_dict(), tokenizer=True)
    config = dict(open_checkpoint(path).config)
    made = transformers.AutoConfig.for_model(config.pop("model_type"), **config).to_dict()
    original = random_model(architecture).config.to_dict()
    theirs = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file="m.gguf").to_dict()
    free = {"dtype", "torch_dtype", "_name_or_path", "transformers_version", "architectures", "eos_token_id"}
    free |= {
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "use_cache",
        "pad_token_id",
        "bos_token_id",
        "initializer_range",
    }
    if architecture == "gpt2":
        free.add("n_ctx")
    keys = set(original) - free
    assert {key: made[key] for key in keys} == {key: original[key] for key in keys}
    # Upstream leaves these to its class, or keeps the digits that float32 adds.
    keys -= {"n_inner", "n_positions", "vocab_size", "rms_norm_eps", "layer_norm_epsilon", "query_pre_attn_scalar"}
    assert {key: made[key] for key in keys} == {key: theirs[key] for key in keys}


def test_gemma3s_layers_alternate_and_27b_scales_by_the_hidden_size(tmp_path: Path) -> None:
    state = random_model("gemma3").state_dict()
    path = write_model(tmp_path / "m.gguf", "gemma3", state, extra=lambda writer: writer.add_sliding_window_pattern(2))
    config = open_checkpoint(path).config
    assert config["layer_types"] == ["sliding_attention", "full_attention"]
    assert (config["sliding_window"], config["rope_local_base_freq"], config["query_pre_attn_scalar"]) == (16, 1e4, 32)

    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)

    config = open_checkpoint(write_model(tmp_path / "n.gguf", "gemma3", state, extra=linear)).config
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("rule", "theta"),
    [((8.0, 1.0, 4.0, 8192), 500_000.0), ((32.0, 1.0, 4.0, 8192), 500_000.0), ((4.0, 2.0, 3.0, 4096), 50_000.0)],
)
def test_llama3s_rope_scaling_is_found_from_its_divisors(
    rule: tuple[float, float, float, int], theta: float, tmp_path: Path
) -> None:
    factor, low, high, original = rule
    stated = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    stated["original_max_position_embeddings"] = original
    config = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=2, rope_parameters={**stated, "rope_theta": theta}
    )
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (torch.arange(0, 128, 2).float() / 128)
    metadata: dict[str, Any] = {}

    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy().astype(np.float32))
        writer.add_key_length(128)
        writer.add_value_length(128)
        metadata["done"] = True

    path = tmp_path / "m.gguf"
    state = random_model("llama", head_dim=128).state_dict()
    writer_theta = theta

    def both(writer: gguf.GGUFWriter) -> None:
        extra(writer)
        writer.kv_data[0]["llama.rope.freq_base"].value = writer_theta

    found = open_checkpoint(write_model(path, "llama", state, extra=both)).config["rope_scaling"]
    assert (found["rope_type"], found["factor"]) == ("llama3", pytest.approx(factor))
    remade = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=2, rope_parameters={**found, "rope_theta": theta}
    )
    again, _ = ROPE_INIT_FUNCTIONS["llama3"](remade, "cpu")
    torch.testing.assert_close(again, scaled, rtol=2e-4, atol=0)
    if original == 8192:
        assert (found["low_freq_factor"], found["high_freq_factor"]) == (low, high)

    def other(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 3, 64, dtype=np.float32) ** 2)
        writer.add_key_length(128)

    with pytest.raises(UnsupportedModelError, match=r"divisors that Llama 3's rule does not give"):
        open_checkpoint(write_model(tmp_path / "n.gguf", "llama", state, extra=other))


def _with(key: str, value: Any) -> Any:
    def change(writer: gguf.GGUFWriter) -> None:
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            list: writer.add_array,
        }
        writer.kv_data[0].pop(key, None)
        if value is not None:
            add[type(value)](key, value)

    return change


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("general.architecture", "mamba", UnsupportedModelError, r"architecture 'mamba'.*llama, qwen2, gemma3, gpt2"),
        ("general.type", "mmproj", UnsupportedModelError, r"holds a 'mmproj', which goes with a model"),
        ("llama.expert_count", 8, UnsupportedModelError, "is a mixture of experts"),
        ("llama.block_count", None, ConfigError, r"must state llama\.block_count, and does not"),
        ("llama.block_count", "two", ConfigError, r"llama\.block_count must be a whole number; it is 'two'"),
        ("llama.block_count", 0, ConfigError, r"llama\.block_count must be positive; it is 0"),
        ("llama.block_count", 2**32 - 1, ConfigError, r"is 4294967295, and the file holds tensors of 2 blocks"),
        ("llama.attention.head_count_kv", 0, ConfigError, r"llama\.attention\.head_count_kv must be positive; it is 0"),
        ("llama.attention.key_length", 0, ConfigError, r"llama\.attention\.key_length must be positive; it is 0"),
        (
            "llama.attention.value_length",
            8,
            UnsupportedModelError,
            "heads must have one size.*they have 16, 8 and None",
        ),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), ConfigError, "must be a finite number; it is nan"),
        ("llama.embedding_length", 65, ConfigError, r"embedding_length is 65, and token_embd\.weight has rows of 64"),
        ("llama.attention.head_count", [4, 4], ConfigError, "head_count must be a whole number"),
        ("llama.rope.dimension_count", 8, UnsupportedModelError, "must have one size for queries"),
        ("llama.rope.scaling.type", "longrope", UnsupportedModelError, "'longrope' is not read from GGUF files; none,"),
        ("llama.rope.scaling.type", "yarn", ConfigError, "needs a positive llama.rope.scaling.factor; it is None"),
        ("general.alignment", 33, CheckpointError, "general.alignment must be a power of two; it is 33"),
    ],
)
def test_metadata_that_make_no_model(key: str, value: Any, kind: type, message: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=_with(key, value))
    with pytest.raises(kind, match=message):
        open_checkpoint(path)


def test_a_window_makes_a_mistral(tmp_path: Path) -> None:
    extra = _with("llama.attention.sliding_window", 8)
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    config = open_checkpoint(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 8)
    assert "attention_bias" not in config


def test_yarn_is_stated(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)

    path = write_model(tmp_path / "m.gguf", "qwen2", random_model("qwen2").state_dict(), extra=extra)
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert open_checkpoint(path).config["rope_scaling"] == scaling


@pytest.mark.parametrize("key", ["yarn_attn_factor", "attn_factor"])
def test_yarns_keys_are_those_of_config_json(key: str, tmp_path: Path) -> None:
    stated = {f"yarn_{name}": value for name, value in (("beta_fast", 16.0), ("beta_slow", 2.0), ("ext_factor", 1.0))}

    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        for name, value in {**stated, key: 2.0}.items():
            writer.add_float32(f"llama.rope.scaling.{name}", value)

    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    config = open_checkpoint(path).config
    scaling = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0, "beta_fast": 16.0, "beta_slow": 2.0}
    assert config["rope_scaling"] == scaling
    theirs = transformers.AutoConfig.for_model(**config)
    rotary = transformers.LlamaForCausalLM(theirs).model.rotary_emb
    ours: Any = find_family("llama").read(config)
    assert ours.rope.scale == rotary.attention_scaling == 2.0
    np.testing.assert_allclose(ours.rope.module().frequencies.compute(), rotary.inv_freq, rtol=3e-7)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"rope.scaling.attn_factor": 2.0},
            "attn_factor is 2.0, and with the rope scaling 'none' only 1.0 is honoured",
        ),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0, "rope.scaling.yarn_attn_factor": 0.5},
            "with the rope scaling 'linear' only 1.0",
        ),
        (
            {"rope.scaling.yarn_ext_factor": 0.5},
            "yarn_ext_factor is 0.5, and with the rope scaling 'none' only -1.0 or",
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_ext_factor": 0.0},
            "yarn_ext_factor is 0.0, and with the rope scaling 'yarn' only -1.0 or 1.0 is honoured",
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_log_multiplier": 0.1},
            "yarn_log_multiplier is 0.1",
        ),
        ({"rope.scaling.alpha": 2.0}, "llama.rope.scaling.alpha is 2.0, which is not honoured here and might change"),
        ({"rope.dimension_sections": [1, 2]}, "llama.rope.dimension_sections is "),
        ({"attention.scale": 0.5}, "llama.attention.scale is 0.5"),
        ({"attention.causal": False}, "llama.attention.causal is False"),
        ({"logit_scale": 0.5}, "llama.logit_scale is 0.5"),
        ({"frobnication": "full"}, "llama.frobnication is 'full'"),
    ],
)
def test_keys_of_the_architecture_that_are_not_honoured(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        for key, value in keys.items():
            _with(f"llama.{key}", value)(writer)

    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    with pytest.raises(UnsupportedModelError, match=re.escape(message)):
        open_checkpoint(path)


def test_two_attention_factors_contradict(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        for name, value in (("type", "yarn"), ("factor", 2.0), ("attn_factor", 2.0), ("yarn_attn_factor", 3.0)):
            _with(f"llama.rope.scaling.{name}", value)(writer)

    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    with pytest.raises(ConfigError, match=r"two attention factors of rope\.scaling: \[2\.0, 3\.0\]"):
        open_checkpoint(path)


def test_keys_of_the_architecture_that_change_nothing(tmp_path: Path) -> None:
    state = random_model("llama").state_dict()
    plain = open_checkpoint(write_model(tmp_path / "m.gguf", "llama", state)).config

    def extra(writer: gguf.GGUFWriter) -> None:
        notes = {"vocab_size": samples.VOCAB, "logit_scale": 1.0, "attention.causal": True, "expert_used_count": 0}
        for key, value in {**notes, "rope.scaling.attn_factor": 1.0, "rope.scaling.original_context_length": 9}.items():
            _with(f"llama.{key}", value)(writer)

    assert open_checkpoint(write_model(tmp_path / "n.gguf", "llama", state, extra=extra)).config == plain


# -- as a checkpoint -------------------------------------------------------------------------------------------------


def test_a_file_is_a_checkpoint(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", "llama", random_model("llama").state_dict(), tokenizer=True)
    checkpoint = open_checkpoint(str(path))
    assert (checkpoint.id, checkpoint.revision, checkpoint.modules) == ("tiny", None, None)
    info = checkpoint.digests()["tiny.gguf"]
    assert (info.size, info.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert checkpoint.read_json("config.json") == checkpoint.config
    end = samples.sentencepiece_tokens()[0].index("<|im_end|>")
    assert checkpoint.read_json("generation_config.json") == {"bos_token_id": 1, "eos_token_id": [2, end]}
    assert checkpoint.has("tokenizer.json") and not checkpoint.has("vocab.txt")
    assert checkpoint.read_json("special_tokens_map.json") is None
    assert json.loads(checkpoint.read_bytes("tokenizer.json"))["model"]["type"] == "BPE"
    with pytest.raises(CheckpointError, match=r"tiny is a GGUF file, and has nothing that stands for vocab\.txt"):
        checkpoint.read_bytes("vocab.txt")
    with pytest.raises(CheckpointError, match="the folder it lies in is none of its"):
        _ = checkpoint.transformer_folder
    with pytest.raises(CheckpointError, match="has no folder '2_Dense'"):
        checkpoint.weights("2_Dense")
    with pytest.raises(CheckpointError, match="A revision belongs to a Hub id"):
        open_checkpoint(path, revision="main")
    with pytest.raises(InputError, match=r"A revision belongs to a Hub id, and '.*tiny\.gguf' is a file"):
        AutoTokenizer.from_pretrained(path, revision="main")
    assert AutoTokenizer.from_pretrained(path)("hello world")["input_ids"][0] == 1
    bare = write_model(tmp_path / "bare.gguf", "llama", random_model("llama").state_dict())
    assert open_checkpoint(bare).tokenizer_files("llama") == {}
    assert not open_checkpoint(bare).has("tokenizer.json")
    with pytest.raises(InputError, match="holds a model without a tokenizer"):
        AutoTokenizer.from_pretrained(bare)


class CausalLM(AutoModel):
    task = "text-generation"


def test_from_the_file_to_its_tokens(tmp_path: Path) -> None:
    """Exported on first use, and found the next time."""
    model = random_model("llama", eos_token_id=None, pad_token_id=0)
    path = write_model(tmp_path / "tiny.gguf", "llama", model.state_dict(), tokenizer=True)
    stages: list[str] = []
    ours = CausalLM.from_pretrained(path, cache_dir=tmp_path / "cache", progress=stages.append)
    assert stages
    prompt = ours.tokenizer("hello the world")["input_ids"]
    assert prompt[0] == 1
    theirs = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
    found = ours.generate(np.array([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None)
    np.testing.assert_array_equal(found, theirs.numpy())
    assert list(ours.artifact.manifest.source.files) == ["tiny.gguf"]
    stages.clear()
    CausalLM.from_pretrained(path, cache_dir=tmp_path / "cache", progress=stages.append)
    assert stages == []
