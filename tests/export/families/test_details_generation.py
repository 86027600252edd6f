"""Decoders: configs as they are found, what is refused and how, names of older checkpoints, rope scaling, windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tokenizers
import torch
import transformers
from support.lowering import engine_of, lowerings
from support.oracle import TensorSource, save_checkpoint, sources, upstream
from support.released_configs import FOUND
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import precast
from precast.export import parity
from precast.export.blocks.alibi import slopes
from precast.export.blocks.rope import rope
from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.families.gemma3_text import Gemma3Spec
from precast.export.families.qwen2 import Qwen2Spec
from precast.export.heads import CAUSAL_LM
from precast.export.reference import Reference, build
from precast.export.trace import trace
from precast.export.weight_table import Lazy
from precast.export.weights import Alternate, Split, Stack
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.runtime.backends.onnxruntime import OnnxRuntime
from precast.runtime.errors import ConfigError, WeightsError
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.parity import Loaded

Config = dict[str, Any]


@pytest.mark.parametrize("name", FOUND)
def test_configs_as_released(name: str) -> None:
    """Each is read without a complaint, and the model it describes has as many numbers as the released one."""
    config, numbers = FOUND[name]
    family = find_family(config["model_type"])
    spec: Any = family.read(config)
    with torch.device("meta"):
        model = family.heads[CAUSAL_LM](spec, frozenset())
    count = sum(value.numel() for value in model.parameters())
    if spec.tie_word_embeddings:
        count -= model.lm_head.weight.numel()  # type: ignore[union-attr, operator]
    assert count == numbers


BAD: list[tuple[str, Config, str]] = [
    ("llama", {"num_key_value_heads": 3}, "'num_attention_heads' 4 must be a multiple of 'num_key_value_heads' 3"),
    ("llama", {"hidden_act": "silou"}, "unknown activation. Closest: silu"),
    ("llama", {"sliding_window": 5}, "'sliding_window' = 5 is not honoured here"),
    ("llama", {"rope_parameters": {"rope_type": "yarm"}}, "'rope_type' is 'yarm', which is not computed here. Closest"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "missing: factor."),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "positive numbers; received {'factor': 0}"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factr": 2.0}}, "missing: factor. Closest: factr"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "whose angles follow the longest text"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "set 'rope_type' to 'default'"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "'rope_parameters' holds tables"),
    ("llama", {"rope_parameters": {"rope_theta": "10k"}}, "positive numbers; received {'rope_theta': '10k'}"),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
        "'partial_rotary_factor' 0.5 with 'rope_type' 'linear' is not computed here",
    ),
    ("llama", {"head_dim": 7}, "heads have 7 channels to turn in pairs"),
    ("mistral", {"sliding_window": 0}, "at least 1, or null for all; received 0"),
    ("mistral", {"attention_bias": True}, "'attention_bias' is True, and only False is honoured"),
    ("qwen2", {"layer_types": ["full_attention"]}, "'layer_types' names 1 layers, and 'num_hidden_layers' is 2"),
    (
        "qwen2",
        {"layer_types": ["full_attention", "sparse"]},
        "holds 'full_attention' and 'sliding_attention'; rec.*sparse",
    ),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "'use_sliding_window' true where"),
    ("gemma", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is True"),
    ("gemma", {"hidden_activation": "gelu"}, "'hidden_activation' is 'gelu'"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' is 50.0"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "holds those of 'full_attention' and of"),
    ("gemma3_text", {"query_pre_attn_scalar": 0}, "must be positive; received 0"),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 0}, "every how many layers one sees everything"),
    ("gemma3_text", {"sliding_window": None}, "there is no window"),
    ("mixtral", {"num_experts_per_tok": 9}, "'num_experts_per_tok' 9 must be between 1 and 'num_local_experts' 4"),
    ("mixtral", {"hidden_act": "gelu"}, "'hidden_act' of a mixture of experts is 'silu' here"),
    ("falcon", {"num_attention_heads": 5}, "must divide the size; received 5 heads and 32 channels"),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3}, "must be a multiple of 'num_kv_heads' 3"),
    ("falcon", {"multi_query": False, "num_kv_heads": 2}, "'num_kv_heads' 2 needs 'new_decoder_architecture'"),
    ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "'parallel_attn' is false"),
    ("falcon", {"num_ln_in_parallel_attn": 2}, "only there are two norms"),
    ("bloom", {"n_head": 5}, "must divide the size; received 5 heads and 32 channels"),
    ("bloom", {"n_inner": 7}, "'n_inner' is 7"),
    ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "'slow_but_exact' with 'pretraining_tp' 2"),
    ("mamba", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu', and only 'silu' or 'swish' is honoured"),
    ("mamba", {"time_step_rank": "all"}, "a number of channels, or 'auto'"),
    ("mamba", {"intermediate_size": 5}, "'expand' times 'hidden_size', 128; received 5"),
    ("mamba", {"conv_kernel": 1}, "'conv_kernel' must be at least 2; received 1"),
]


@pytest.mark.parametrize(("model_type", "keys", "message"), BAD)
def test_what_cannot_be_honoured_is_refused_by_name(model_type: str, keys: Config, message: str) -> None:
    family = find_family(model_type)
    family.read({"model_type": model_type, **family.tiny})
    with pytest.raises(ConfigError, match=message):
        family.read({"model_type": model_type, **family.tiny, **keys})


def one_layer(model_type: str, **keys: Any) -> tuple[Config, dict[str, TensorSource]]:
    config, model = upstream(model_type, CAUSAL_LM, keys)
    return config, sources(model)


def same(config: Config, first: dict[str, TensorSource], second: dict[str, TensorSource]) -> None:
    """Both sets of tensors fill every parameter with the same numbers."""
    one, other = (build(config, tensors).parts[-1].module.state_dict() for tensors in (first, second))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_buffers_of_old_checkpoints_are_no_weights() -> None:
    saved = TensorSource(torch.ones(4))
    config, tensors = one_layer("llama")
    same(config, tensors, {**tensors, "model.layers.1.self_attn.rotary_emb.inv_freq": saved})
    config, tensors = one_layer("falcon")
    same(config, tensors, {**tensors, "transformer.h.0.self_attention.maybe_rotary.inv_freq": saved})
    same(config, tensors, {**tensors, "transformer.h.0.self_attention.rotary_emb.inv_freq": saved})


def test_bloom_without_its_prefix() -> None:
    config, tensors = one_layer("bloom")
    tied = {name: value for name, value in tensors.items() if name != "lm_head.weight"}
    bare = {name.removeprefix("transformer."): value for name, value in tied.items()}
    assert "word_embeddings_layernorm.weight" in bare and "h.1.mlp.dense_h_to_4h.bias" in bare
    same(config, tensors, bare)
    wrong = {**config, "n_head": 8, "num_attention_heads": 8, "hidden_size": 24}
    with pytest.raises(WeightsError, match=r"expected \(24"):
        build(wrong, tensors)


def test_mamba_says_embedding_or_embeddings() -> None:
    config, tensors = one_layer("mamba")
    old = {name.replace("backbone.embeddings.", "backbone.embedding."): value for name, value in tensors.items()}
    assert old.keys() != tensors.keys()
    same(config, tensors, old)


def apart(tensors: dict[str, TensorSource]) -> dict[str, TensorSource]:
    """Packed experts under the names that released files have."""
    made: dict[str, TensorSource] = {}
    for name, value in tensors.items():
        tensor = value.load()
        stem = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                for part, half in zip(("w1", "w3"), both.chunk(2), strict=True):
                    made[stem.replace("gate_up_proj", f"{expert}.{part}.weight")] = TensorSource(half)
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                made[stem.replace("down_proj", f"{expert}.w2.weight")] = TensorSource(down)
        else:
            made[stem] = value
    return made


def test_experts_packed_and_apart() -> None:
    config, tensors = one_layer("mixtral")
    old = apart(tensors)
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in old
    same(config, tensors, old)
    missing = {name: value for name, value in old.items() if ".0.block_sparse_moe.experts.2.w1" not in name}
    with pytest.raises(WeightsError, match=r"needs one tensor for each number from 0; found \[0, 1, 3\]"):
        build(config, missing)


def lazy(tensor: torch.Tensor, key: str = "saved") -> Lazy:
    return Lazy((key,), tuple(tensor.shape), lambda: tensor)


def test_packed_projections_come_apart() -> None:
    """Two groups of three units of two rows, and who has which."""
    rule = Split("a.{}.qkv", ("a.{}.q", "a.{}.k"), groups=2, shares=(2, 1))
    rows = torch.arange(12.0)[:, None]
    made = rule.apply({"a.7.qkv": lazy(rows), "b": lazy(rows)})
    assert made.keys() == {"a.7.q", "a.7.k", "b"}
    assert made["a.7.q"].load().flatten().tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert made["a.7.k"].load().flatten().tolist() == [4, 5, 10, 11]
    assert all(made[name].shape == tuple(made[name].load().shape) for name in made)
    with pytest.raises(
        WeightsError, match=r"'saved' of shape \(13, 1\) does not split into 2 parts of sizes \(2, 1\), 2 times: are"
    ):
        rule.apply({"a.7.qkv": lazy(torch.zeros(13, 1))})


def test_numbered_tensors_become_one() -> None:
    rule = Stack("x.{}.e.{}.w", "x.{}.all")
    made = rule.apply({f"x.3.e.{index}.w": lazy(torch.full((2,), float(index))) for index in (10, *range(10))})
    assert made["x.3.all"].load()[:, 0].tolist() == list(range(11)) and made["x.3.all"].shape == (11, 2)
    with pytest.raises(WeightsError, match=r"'x.0.all' needs tensors of one shape; found \[\(2,\), \(3,\)\]"):
        rule.apply({"x.0.e.0.w": lazy(torch.zeros(2)), "x.0.e.1.w": lazy(torch.zeros(3))})


def test_halves_alternate() -> None:
    made = Alternate("w", axis=1).apply({"w": lazy(torch.arange(12).view(2, 6))})
    assert made["w"].load().tolist() == [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]


ROPES: list[Config] = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 20, "beta_slow": 2},
    {"rope_type": "yarn", "factor": 2.5, "truncate": False, "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 2.5, "truncate": None},
    {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 256},
]


@pytest.mark.parametrize("parameters", ROPES, ids=lambda value: str(value["rope_type"]))
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_scaling_is_upstreams(parameters: Config, theta: float) -> None:
    given = {**parameters, "rope_theta": theta}
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=2048, rope_parameters=dict(given)
    )
    wanted, scale = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    read = rope(64, parameters=given, longest=2048)
    read.check()
    module = read.module()
    got = module.frequencies.compute()
    assert got.dtype == torch.float32 and module.scale == pytest.approx(scale, rel=1e-12)
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=3e-7)
    # The same in the keys of transformers 4.
    scaling = {("type" if key == "rope_type" else key): value for key, value in parameters.items()}
    assert rope(64, scaling=scaling, theta=theta, longest=2048) == read


def test_a_scaling_without_factor_is_upstreams_default() -> None:
    assert rope(64, parameters={"rope_type": "default", "factor": 2.0}, longest=99) == rope(64, longest=99)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 71])
def test_alibi_slopes(heads: int) -> None:
    """2 ** (-8 i / N), and between powers of two every second of the next one: the paper's own words."""
    below = 1 << (heads.bit_length() - 1)
    wanted = [2.0 ** (-8 * i / below) for i in range(1, below + 1)]
    wanted += [2.0 ** (-8 * i / (2 * below)) for i in range(1, 2 * below + 1, 2)][: heads - below]
    np.testing.assert_allclose(slopes(heads).numpy(), wanted, rtol=2e-6)


def test_gemma3_reads_transformers_4_keys() -> None:
    family = find_family("gemma3_text")
    old = family.read(
        {
            **{key: value for key, value in family.tiny.items() if key not in ("layer_types", "rope_parameters")},
            "num_hidden_layers": 4,
            "sliding_window_pattern": 2,
            "rope_theta": 3000.0,
            "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }
    )
    new = family.read(
        {**family.tiny, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    )
    assert isinstance(old, Gemma3Spec) and isinstance(new, Gemma3Spec)
    assert (old.rope, old.local_rope, old.kinds) == (new.rope, new.local_rope, new.kinds)
    assert old.rope.values == {"factor": 8.0} and old.local_rope.values == {}


def test_qwen2_windows_begin_at_a_layer() -> None:
    family = find_family("qwen2")
    keys = {**family.tiny, "num_hidden_layers": 3, "sliding_window": 5, "max_window_layers": 1}
    off, on = (family.read({**keys, "use_sliding_window": used}) for used in (False, True))
    assert isinstance(off, Qwen2Spec) and isinstance(on, Qwen2Spec)
    assert off.windows == [None, None, None]
    assert on.windows == [None, 5, 5]


def engine(ours: Reference, name: str, folder: Path) -> GraphEngine:
    dialect, passes, isa = lowerings()[name]
    [part] = ours.parts
    signature = part.signature
    graph = trace(part.module, signature.example(), signature.dynamic, signature.outputs, part.name, signature.bounds)
    graph = ir.from_proto(ir.to_proto(graph))
    run(graph, passes())
    emit(graph, Folder(folder / name), "graph.onnx")
    runner = OnnxRuntime("CPUExecutionProvider").load(folder / name / "graph.onnx", session={}, threads=1, isa=isa)
    loaded = Loaded(runner, signature.ports, signature.outs, parity.successors(signature), dialect.state)
    return engine_of(ours.parts, {part.name: loaded})


@pytest.mark.parametrize("name", [name for name in lowerings() if name.startswith("cpu-")])
def test_rings_go_round(name: str, tmp_path: Path) -> None:
    """Rows of several times the ring's slots, in pieces longer and shorter than it, are upstream's; and where windows
    have rings, their buffers stay small."""
    config, model = upstream("gemma3_text", CAUSAL_LM, {"max_position_embeddings": 400})
    served = engine(build(config, sources(model)), name, tmp_path)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 99, size=count).tolist() for count in (300, 221)]
    with torch.no_grad():
        wanted = [model(torch.tensor([row])).logits[0].numpy() for row in rows]
    session = served.open(2, 300)
    held = [0, 0]
    pieces = ((120, 31), (1, 1), (1, 9), (60, 120), (70, 1), (1, 1), (1, 1), (46, 57))
    for counts in pieces:
        logits = session.feed([row[at : at + count] for row, at, count in zip(rows, held, counts, strict=True)])
        held = [at + count for at, count in zip(held, counts, strict=True)]
        for row, at in enumerate(held):
            assert np.abs(logits[row, -1] - wanted[row][at - 1]).max() < 2e-4, (counts, row)
    assert held == [300, 221]
    assert session._memory is not None
    slots = [buffer.shape[2] for buffer in session._memory.buffers.values()]
    ring = served.layout.get("ring") is True
    assert min(slots) == (6 + 64 if ring else max(slots)) and max(slots) >= 300


def test_an_artifact_of_a_state_space_model(tmp_path: Path) -> None:
    """Exported, loaded and asked: upstream's tokens, for more of them than its checks have; a Scan's cost is unknown
    and said to be."""
    config, model = upstream("mamba", CAUSAL_LM)
    save_checkpoint(tmp_path / "checkpoint", config, model)
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(99)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(str(tmp_path / "checkpoint" / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (tmp_path / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(settings))
    artifact = export_model(tmp_path / "checkpoint", tmp_path / "artifact")
    ids = np.array([[5, 6, 7, 8, 9]])
    keys: Any = {"max_new_tokens": 90, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    with torch.no_grad():
        wanted = model.generate(torch.tensor(ids), attention_mask=torch.ones(1, 5), **keys)  # type: ignore[operator]
    np.testing.assert_array_equal(np.asarray(precast.load(artifact).generate(input_ids=ids, **keys)), wanted.numpy())
    assert "Scan" in (artifact / "precast.json").read_text()


def test_a_mamba_state_knows_nothing_of_padding(tmp_path: Path) -> None:
    """Rows of different length in one call leave the states that each alone leaves, and its answer; rows may change
    places. Upstream's projection adds its bias to padded steps, which the convolution mixes into the first real ones:
    docs/preprocessing.md says so under "Padding"."""
    config, model = upstream("mamba", CAUSAL_LM, {"use_bias": True})
    with torch.no_grad():
        lone = model(input_ids=torch.tensor([[13, 14]])).logits[0, -1].numpy()
        ids, mask = torch.tensor([[0, 0, 0, 13, 14]]), torch.tensor([[0, 0, 0, 1, 1]])
        padded = model(input_ids=ids, attention_mask=mask).logits[0, -1].numpy()
    assert np.abs(padded - lone).max() > 1e-2 * np.abs(lone).max()
    served = engine(build(config, sources(model)), "cpu-fp32", tmp_path)
    assert served.rollback == 0
    rows = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14]]
    together = served.open(3, 50)
    logits = together.feed(rows)
    assert np.abs(logits[2, -1] - lone).max() < 1e-4 * np.abs(lone).max()
    assert together._memory is not None
    for index, row in enumerate(rows):
        alone = served.open(1, 50)
        alone.feed([row])
        assert alone._memory is not None
        for name, buffer in alone._memory.buffers.items():
            np.testing.assert_allclose(together._memory.buffers[name][index], buffer[0], rtol=1e-5, atol=1e-6)
    before = {name: buffer.copy() for name, buffer in together._memory.buffers.items()}
    together.select([2, 0])
    np.testing.assert_array_equal(together._memory.buffers["past_ssm_state.0"][:2], before["past_ssm_state.0"][[2, 0]])
