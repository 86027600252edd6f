"""Families: names of older checkpoints, keys that are refused, shared weights, heads that are none."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from support.oracle import TensorSource, apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import albert, find_family
from precast.export.heads import BASE, MASKED_LM, MULTIPLE_CHOICE, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from precast.export.reference import Reference, build
from precast.export.trace import trace
from precast.graphs.passes.base import run
from precast.graphs.recipes import RECIPES
from precast.runtime.errors import ConfigError, UnsupportedTaskError, WeightsError

Tensors = dict[str, TensorSource]

PREFIXES = {
    "albert": "albert.",
    "bert": "bert.",
    "camembert": "roberta.",
    "distilbert": "distilbert.",
    "electra": "electra.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
}


def checkpoint(model_type: str, head: Head, **overrides: Any) -> tuple[dict[str, Any], Tensors]:
    config, model = upstream(model_type, head, {"num_hidden_layers": 1, **overrides})
    return config, sources(model)


def outputs(ours: Reference) -> dict[str, np.ndarray[Any, Any]]:
    return parity.evaluate(ours.model, parity.cases(ours.signature, shapes=((3, 7, "right"),))[0].inputs)


def same(first: Reference, second: Reference) -> None:
    a, b = outputs(first), outputs(second)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(("model_type", "prefix"), PREFIXES.items())
def test_names_of_old_checkpoints(model_type: str, prefix: str) -> None:
    """With and without the model's prefix, norms named as in TensorFlow, saved buffers."""
    config, tensors = checkpoint(model_type, MASKED_LM)
    assert f"{prefix}embeddings.word_embeddings.weight" in tensors
    wanted = build(config, tensors)
    same(wanted, build(config, {name.removeprefix(prefix): value for name, value in tensors.items()}))
    # LayerNorm, layer_norm, full_layer_layer_norm, vocab_layer_norm ...
    old = {
        name.replace("orm.weight", "orm.gamma").replace("orm.bias", "orm.beta"): value
        for name, value in tensors.items()
    }
    assert sum(name.endswith(".gamma") for name in old) >= 4
    same(wanted, build(config, old))
    buffer = TensorSource(torch.arange(160)[None])
    same(wanted, build(config, {**tensors, f"{prefix}embeddings.position_ids": buffer}))
    same(wanted, build(config, {**tensors, "embeddings.position_ids": buffer}))


@pytest.mark.parametrize(
    ("model_type", "bias", "decoder"),
    [
        ("albert", "predictions.bias", "predictions.decoder"),
        ("bert", "cls.predictions.bias", "cls.predictions.decoder"),
        ("camembert", "lm_head.bias", "lm_head.decoder"),
        ("electra", None, "generator_lm_head"),
        ("distilbert", None, "vocab_projector"),
        ("roberta", "lm_head.bias", "lm_head.decoder"),
    ],
)
def test_tied_decoder_may_be_left_out(model_type: str, bias: str | None, decoder: str) -> None:
    """Checkpoints keep a tied decoder, or not; and its bias under either of two names."""
    config, tensors = checkpoint(model_type, MASKED_LM)
    wanted = build(config, tensors)
    without = {name: value for name, value in tensors.items() if name != f"{decoder}.weight"}
    same(wanted, build(config, without))
    if bias is not None:
        for name in (bias, f"{decoder}.bias"):
            same(wanted, build(config, {key: value for key, value in without.items() if key != name}))
    words = wanted.model.get_parameter("model.embeddings.words.weight")
    assert wanted.model.get_parameter("decoder.weight") is words
    untied = build({**config, "tie_word_embeddings": False}, tensors)
    assert untied.model.get_parameter("decoder.weight") is not untied.model.get_parameter(
        "model.embeddings.words.weight"
    )
    with pytest.raises(WeightsError, match=r"decoder\.weight"):
        build({**config, "tie_word_embeddings": False}, without)


@pytest.mark.parametrize("model_type", PREFIXES)
def test_base_from_a_masked_lm_checkpoint(model_type: str) -> None:
    """The LM head is left, and a pooler nobody trained is not invented."""
    config, tensors = checkpoint(model_type, MASKED_LM)
    ours = build(config, tensors, task=BASE.task)
    assert ours.signature.outputs == ("last_hidden_state",)
    assert tuple(outputs(ours)) == ("last_hidden_state",)
    assert any("bias" in name for name in ours.ignored)
    with pytest.raises(UnsupportedTaskError, match=r"no trained head for task 'text-classification'.*fill-mask"):
        build(config, tensors, task=SEQUENCE_CLASSIFICATION.task)


@pytest.mark.parametrize("model_type", [name for name in PREFIXES if name not in ("distilbert", "electra")])
def test_pooler_of_a_base_checkpoint(model_type: str) -> None:
    config, tensors = checkpoint(model_type, BASE)
    assert build(config, tensors).signature.outputs == ("last_hidden_state", "pooler_output")
    without = {name: value for name, value in tensors.items() if "pooler" not in name}
    assert build(config, without).signature.outputs == ("last_hidden_state",)
    half = {
        name: value
        for name, value in tensors.items()
        if not name.endswith("pooler.bias") and "pooler.dense.b" not in name
    }
    with pytest.raises(WeightsError, match=r"Missing \(1\):\n  pooler\.dense\.bias"):
        build(config, half)
    with pytest.raises(UnsupportedTaskError, match=r"no trained head for task 'fill-mask'. It has: feature-extraction"):
        build(config, tensors, task=MASKED_LM.task)


@pytest.mark.parametrize("model_type", ["distilbert", "electra"])
@pytest.mark.parametrize("head", [SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE], ids=lambda head: head.task)
def test_projected_classifiers_are_no_poolers(model_type: str, head: Head) -> None:
    config, tensors = checkpoint(model_type, head)
    assert build(config, tensors, task=BASE.task).signature.outputs == ("last_hidden_state",)


@pytest.mark.parametrize("model_type", [name for name in PREFIXES if name != "distilbert"])
def test_relative_positions_are_refused(model_type: str) -> None:
    config, tensors = checkpoint(model_type, BASE)
    with pytest.raises(
        ConfigError, match=r"'position_embedding_type' is 'relative_key', and only 'absolute' is honoured"
    ):
        build({**config, "position_embedding_type": "relative_key"}, tensors)


@pytest.mark.parametrize("model_type", PREFIXES)
def test_every_wrong_weight_in_one_error(model_type: str) -> None:
    config, tensors = checkpoint(model_type, TOKEN_CLASSIFICATION)
    prefix = PREFIXES[model_type]
    words = f"{prefix}embeddings.word_embeddings.weight"
    wrong = {name: value for name, value in tensors.items() if "position_embeddings" not in name}
    wrong[words] = TensorSource(torch.zeros(5, 3))
    wrong[f"{prefix}embeddings.adapter.weight"] = wrong["extra.bias"] = TensorSource(torch.zeros(4))
    with pytest.raises(WeightsError) as caught:
        build(config, wrong)
    message = str(caught.value)
    assert "Missing (1):\n  model.embeddings.positions.table.weight (16" in message
    strange = sorted((f"{prefix}embeddings.adapter.weight", "extra.bias"))
    assert f"Not understood (2):\n  {strange[0]} (4,)\n  {strange[1]} (4,)" in message
    assert f"Of another shape (1):\n  {words} is (5, 3), expected (99, " in message


def test_a_message_about_weights_ends_where_nobody_reads_on() -> None:
    """Weights of another model, by the thousand."""
    config, tensors = checkpoint("bert", BASE)
    foreign = {f"layers.{index}.weight": TensorSource(torch.zeros(2)) for index in range(5000)}
    with pytest.raises(WeightsError) as caught:
        build({**config, "num_hidden_layers": 100}, {**tensors, **foreign})
    message = str(caught.value)
    assert "Missing (1584):" in message and "\n  and 1544 more\n" in message
    assert "Not understood (5000):" in message and "\n  and 4960 more\n" in message
    assert len(message.splitlines()) == 2 * 42 + 2


def test_defaults_are_upstreams() -> None:
    """Keys left out of config.json mean what upstream's config classes say."""
    import transformers

    for model_type in PREFIXES:
        family = find_family(model_type)
        theirs = transformers.AutoConfig.for_model(model_type)
        ours = family.read({"vocab_size": theirs.vocab_size})
        for entry in dataclasses.fields(ours):
            for key in entry.metadata.get("keys") or (entry.name,):
                if hasattr(theirs, key) and entry.name not in ("id2label", "num_labels"):
                    value = getattr(theirs, key)
                    read = entry.metadata.get("read")
                    assert getattr(ours, entry.name) == (read(value) if read else value), f"{model_type} {key}"


# RoBERTa


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert"])
def test_roberta_positions_count_real_tokens(model_type: str) -> None:
    """Left padding moves nothing: positions are counted from the padding token."""
    config, tensors = checkpoint(model_type, BASE, pad_token_id=3)
    ours = build(config, tensors)
    assert [port.name for port in ours.signature.ports] == ["input_ids", "attention_mask"]
    ids = np.array([[5, 17, 90, 41, 8]])
    padded = np.concatenate([np.full((1, 4), 3), ids], axis=1)
    alone = parity.evaluate(ours.model, {"input_ids": ids, "attention_mask": np.ones_like(ids)})["last_hidden_state"]
    mask = (padded != 3).astype(np.int64)
    beside = parity.evaluate(ours.model, {"input_ids": padded, "attention_mask": mask})["last_hidden_state"]
    np.testing.assert_allclose(beside[:, 4:], alone, rtol=0, atol=1e-5)


def test_roberta_reads_its_limits() -> None:
    config, tensors = checkpoint("roberta", BASE, pad_token_id=3, type_vocab_size=2)
    signature = build(config, tensors).signature
    assert signature.longest == config["max_position_embeddings"] - 4
    assert signature.port("token_type_ids") is not None
    without = {name: value for name, value in config.items() if name != "pad_token_id"}
    assert build(without, tensors).signature.longest == config["max_position_embeddings"] - 2
    for value in (None, -2):
        with pytest.raises(ConfigError, match="positions are counted from the padding token"):
            build({**config, "pad_token_id": value}, tensors)
    with pytest.raises(ConfigError, match="'vocab_size' is missing"):
        build({name: value for name, value in config.items() if name != "vocab_size"}, tensors)


# ELECTRA


@pytest.fixture(scope="module")
def discriminator() -> tuple[dict[str, Any], Tensors]:
    config, tensors = checkpoint("electra", BASE)
    state = {f"electra.{name}": value for name, value in tensors.items()}
    size = config["hidden_size"]
    shapes = {
        "dense.weight": (size, size),
        "dense.bias": (size,),
        "dense_prediction.weight": (1, size),
        "dense_prediction.bias": (1,),
    }
    head = {f"discriminator_predictions.{name}": TensorSource(torch.ones(shape)) for name, shape in shapes.items()}
    return {**config, "architectures": ["ElectraForPreTraining"]}, {**state, **head}


@pytest.mark.parametrize("task", [None, MASKED_LM.task])
def test_electra_discriminator_fills_no_masks(discriminator: tuple[dict[str, Any], Tensors], task: str | None) -> None:
    with pytest.raises(
        UnsupportedTaskError,
        match=r"ElectraForPreTraining is a discriminator.*'feature-extraction'.*ElectraForMaskedLM",
    ):
        build(*discriminator, task=task)


def test_electra_discriminator_has_an_encoder(discriminator: tuple[dict[str, Any], Tensors]) -> None:
    config, tensors = checkpoint("electra", BASE)
    same(build(*discriminator, task=BASE.task), build(config, tensors))


@pytest.mark.parametrize("kind", ["last", "mean", "cls_index", "attn"])
def test_electra_summaries_are_of_the_first_token(kind: str) -> None:
    config, tensors = checkpoint("electra", MULTIPLE_CHOICE)
    with pytest.raises(ConfigError, match=rf"'summary_type' is '{kind}', and only 'first' is honoured"):
        build({**config, "summary_type": kind}, tensors)
    with pytest.raises(ConfigError, match="'summary_proj_to_labels' is True"):
        build({**config, "summary_proj_to_labels": True}, tensors)
    with pytest.raises(ConfigError, match=r"'summary_activation' is 'tanhh'.*Closest: tanh"):
        build({**config, "summary_activation": "tanhh"}, tensors)


# ALBERT


def test_albert_holds_shared_weights_once() -> None:
    """One parameter and one initializer, whatever the number of layers that use it, in the graph of every recipe."""
    config, tensors = checkpoint("albert", BASE, num_hidden_layers=3)
    ours = build(config, tensors)
    layers = ours.model.model.layers  # type: ignore[union-attr]
    assert len(layers) == 3  # type: ignore[arg-type]
    for name, _ in layers[0].named_parameters():  # type: ignore[index, union-attr]
        assert len({id(layer.get_parameter(name)) for layer in layers}) == 1, name  # type: ignore[union-attr]
    signature = ours.signature
    proto = ir.to_proto(trace(ours.model, signature.example(), signature.dynamic, signature.outputs, "encoder"))
    stored = sum(value.tensor.nbytes for value in tensors.values())
    for recipe in RECIPES:
        if recipe.precision != "fp32":
            continue
        graph = ir.from_proto(proto)
        run(graph, recipe.passes())
        values = [
            value.const_value.numpy() for value in graph.graph.initializers.values() if value.const_value is not None
        ]
        counts = Counter(value.tobytes() for value in values if value.nbytes > 64)
        assert set(counts.values()) == {1}, recipe.variant
        assert sum(value.nbytes for value in values) <= 1.05 * stored, recipe.variant


def test_albert_groups() -> None:
    def schedule(layers: int, groups: int, inner: int) -> list[tuple[int, int]]:
        return list(albert.Spec(num_hidden_layers=layers, num_hidden_groups=groups, inner_group_num=inner).schedule)

    assert schedule(3, 1, 1) == [(0, 0)] * 3
    assert schedule(4, 2, 1) == [(0, 0), (0, 0), (1, 0), (1, 0)]
    assert schedule(3, 2, 2) == [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 1)]


def test_albert_groups_that_no_layer_uses() -> None:
    """More groups than layers: upstream keeps the rest without ever using it."""
    config, narrow = upstream("albert", BASE, {"num_hidden_layers": 2, "num_hidden_groups": 3})
    model = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    case = {
        name: torch.from_numpy(array)
        for name, array in parity.cases(ours.signature, shapes=((2, 9, "right"),))[0].inputs.items()
    }
    with float64():
        theirs = model(**case).last_hidden_state
    with torch.no_grad():
        assert apart(ours.model(**case)["last_hidden_state"], theirs) <= 1


def test_albert_sentence_order_head_is_left_out() -> None:
    config, tensors = checkpoint("albert", MASKED_LM)
    size = config["hidden_size"]
    trained = {
        **tensors,
        "sop_classifier.classifier.weight": TensorSource(torch.ones(2, size)),
        "sop_classifier.classifier.bias": TensorSource(torch.ones(2)),
        "albert.pooler.weight": TensorSource(torch.ones(size, size)),
        "albert.pooler.bias": TensorSource(torch.ones(size)),
    }
    both = build({**config, "architectures": ["AlbertForPreTraining"]}, trained)
    assert both.head is MASKED_LM
    same(both, build(config, tensors))
    with pytest.raises(UnsupportedTaskError, match="no trained head for task 'text-classification'"):
        build(config, trained, task=SEQUENCE_CLASSIFICATION.task)


def test_albert_keys_of_the_original_code() -> None:
    config, tensors = checkpoint("albert", BASE)
    original = {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0}
    same(build(config, tensors), build({**config, **original}, tensors))


# DistilBERT


def test_distilbert_keys_by_either_name() -> None:
    config, tensors = checkpoint("distilbert", BASE)
    names = {"dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}
    same(build(config, tensors), build({names.get(key, key): value for key, value in config.items()}, tensors))
    same(build(config, tensors), build({**config, "tie_weights_": True, "sinusoidal_pos_embds": True}, tensors))
