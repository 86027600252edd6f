"""MPNet, DeBERTa, ModernBERT where the tests of all families do not reach: bucket edges, windows, poolers, refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support.oracle import apart, float64, sources, upstream, widened
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from precast.export.blocks.relative import RelativeIndex, signed_log_bins, two_sided_buckets
from precast.export.blocks.rotary import RotaryPositions
from precast.export.blocks.tables import fill_tables
from precast.export.families import find_family
from precast.export.heads import BASE, MASKED_LM, MULTIPLE_CHOICE, SEQUENCE_CLASSIFICATION, Head
from precast.export.reference import Reference, build
from precast.export.trace import trace
from precast.graphs import contract
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.passes.base import run
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.lower import Lower
from precast.runtime.errors import ConfigError, UnsupportedTaskError, WeightsError

FAR = torch.arange(-3000, 3001)


def pair(model_type: str, head: Head, **overrides: Any) -> tuple[Reference, torch.nn.Module]:
    config, model = upstream(model_type, head, overrides, seed=3)
    return build(config, sources(model)), model


def config_of(model_type: str, **overrides: Any) -> dict[str, Any]:
    return {"model_type": model_type, **find_family(model_type).tiny, **overrides}


@pytest.mark.parametrize("length", [1, 2, 130, 700])
def test_two_sided_buckets_at_every_edge(length: int) -> None:
    """The table, clamped at its ends, gives upstream's bucket for every pair, however far apart."""
    index = RelativeIndex(128, lambda distance: two_sided_buckets(distance, 32, 128))
    fill_tables(index)
    positions = torch.arange(length)
    expected = MPNetEncoder.relative_position_bucket(positions[None, :] - positions[:, None])
    assert torch.equal(index(length), expected)


@pytest.mark.parametrize(("bins", "furthest"), [(256, 512), (16, 160), (32, 512), (4, 1000), (2, 50), (64, 65)])
def test_log_bins_at_every_edge(bins: int, furthest: int) -> None:
    """Every distance falls into upstream's bin, within the table and far beyond it."""
    expected = make_log_bucket_position(FAR, bins, furthest).to(torch.int64).clamp(-bins, bins)
    assert torch.equal(signed_log_bins(FAR, bins, furthest), expected)
    index = RelativeIndex(2 * furthest, lambda distance: signed_log_bins(distance, bins, furthest))
    fill_tables(index)
    clamped = index.buckets()[FAR.clamp(-index.limit, index.limit) + index.limit]
    assert torch.equal(clamped, expected)


def test_rotary_table_holds_upstreams_angles_to_the_last_position() -> None:
    """Published ModernBERT: 8192 positions of 64 channels, whose float32 angles reach 8191."""
    config, _ = upstream("modernbert", BASE, {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4})
    _, model = upstream("modernbert", BASE, {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4})
    rotary = ModernBertRotaryEmbedding(model.config)
    for kind, base in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        assert config["rope_parameters"][kind]["rope_theta"] == base
        cos, sin = rotary(torch.zeros(1), torch.arange(8192)[None], kind)
        ours = RotaryPositions(8192, 64, base)
        fill_tables(ours)
        for table, expected in ((ours.cos(), cos), (ours.sin(), sin)):
            torch.testing.assert_close(table, expected[0, :, :32], rtol=0, atol=1.2e-7)


@pytest.mark.parametrize(("local", "reach"), [(16, 8), (7, 3), (1, 0)])
def test_window_ends_where_it_should(local: int, reach: int) -> None:
    """A token changes the states of its neighbours up to half the window away, inclusive, and no further ones."""
    one = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    ours, model = pair("modernbert", BASE, **one, local_attention=local)
    ids = torch.arange(1, 41)[None]
    mask = torch.ones_like(ids)
    other = ids.clone()
    other[0, 20] = 77
    with torch.no_grad():
        first, second = (ours.model(x, mask)["last_hidden_state"] for x in (ids, other))
        changed = (first != second).any(-1)[0]
        expected = (model(ids).last_hidden_state != model(other).last_hidden_state).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(20 - reach, 21 + reach))
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("head", [SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE], ids=lambda head: head.task)
def test_modernbert_poolers_with_padding(head: Head, side: str, pooling: str) -> None:
    """The mean is over real tokens, and multiple choice finds its first token behind padding on the left."""
    if (head, side, pooling) == (SEQUENCE_CLASSIFICATION, "left", "cls"):
        return  # reads the state of a padded position, which upstream leaves undefined
    config, narrow = upstream("modernbert", head, {"classifier_pooling": pooling, "num_hidden_layers": 2})
    model = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    shape = (2, 3, 30) if head is MULTIPLE_CHOICE else (3, 30)
    ids = torch.randint(1, 99, shape, generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    padded = slice(0, 13) if side == "left" else slice(17, 30)
    mask[0, ..., padded] = 0
    with float64():
        expected = model(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad():
        assert apart(ours.model(ids, mask)["logits"], expected) <= 1


@pytest.mark.parametrize("index", [1, 2])
def test_convolution_sees_no_padding(index: int) -> None:
    """What stands in padded positions does not reach real ones through DeBERTa's convolution, of either side."""
    ours, _ = pair("deberta-v2", BASE, **find_family("deberta-v2").variations[index - 1])
    ids = torch.randint(1, 99, (1, 12), generator=torch.Generator().manual_seed(1))
    for padded in (slice(0, 4), slice(8, 12)):
        mask = torch.ones_like(ids)
        mask[0, padded] = 0
        other = ids.clone()
        other[0, padded] = 5
        types = torch.zeros_like(ids) if ours.signature.port("token_type_ids") else None
        with torch.no_grad():
            first, second = (ours.model(x, mask, types)["last_hidden_state"][mask.bool()] for x in (ids, other))
        assert torch.equal(first, second)


def test_old_and_new_modernbert_keys_say_the_same() -> None:
    """Keys of transformers 4 (published files) and of 5."""
    read = find_family("modernbert").read
    old: Any = read(config_of("modernbert", global_rope_theta=5e4, local_rope_theta=2e3, global_attn_every_n_layers=2))
    new: Any = read(
        config_of(
            "modernbert",
            layer_types=["full_attention", "sliding_attention"] * 2,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 5e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
            },
        )
    )
    assert old.kinds == new.kinds
    for kind in old.kinds:
        assert old.rope(kind) == new.rope(kind)
    one: Any = read(config_of("modernbert", global_rope_theta=5e4, local_rope_theta=None))
    sliding = one.rope("sliding_attention")
    assert (sliding.kind, sliding.theta) == ("default", 5e4)


_REFUSED: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("mpnet", {"relative_attention_num_buckets": 64}, "'relative_attention_num_buckets' is 64, and only 32"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
        "'yarn'; default or linear is honoured here",
    ),
    ("modernbert", {"rope_parameters": {"rope_theta": 1e4}}, "an object with 'full_attention' and 'sliding_attention'"),
    ("modernbert", {"rope_parameters": {"full_attention": 1}}, "'full_attention' and 'sliding_attention' are objects"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}},
        "'partial_rotary_factor' 0.5 with 'rope_type' 'linear' is not computed here",
    ),
    ("modernbert", {"rope_scaling": {"type": "linear"}}, "'rope_scaling'"),
    ("modernbert", {"layer_types": ["full_attention"]}, "'layer_types' has 1 entries for 'num_hidden_layers' 4"),
    ("modernbert", {"layer_types": ["chunked_attention"] * 4}, "expected a list of 'full_attention'"),
    ("modernbert", {"classifier_pooling": "max"}, "'classifier_pooling' is 'max', and only 'cls' or 'mean'"),
    ("modernbert", {"hidden_size": 36}, "'hidden_size' 36 must be a multiple of twice 'num_attention_heads' 4"),
    ("deberta-v2", {"pos_att_type": "p2p|c2p"}, "only 'c2p' and 'p2c' are honoured"),
    ("deberta-v2", {"norm_rel_ebd": "rms"}, "only 'none' and 'layer_norm' are honoured"),
    ("deberta-v2", {"conv_kernel_size": 4}, "'conv_kernel_size' 4 must be odd"),
    ("deberta-v2", {"position_buckets": 15}, "'position_buckets' 15 must be even"),
    ("deberta-v2", {"position_buckets": 320}, "half of it below the largest distance 159"),
    ("deberta-v2", {"attention_head_size": 7}, "'num_attention_heads' 4 times the head size 7"),
    ("deberta-v2", {"pooler_hidden_size": 31}, "'pooler_hidden_size' 31 must be 'hidden_size' 32"),
    ("deberta-v2", {"rope_theta": 9.0}, "'rope_theta' = 9.0 is not honoured here"),
)


@pytest.mark.parametrize(("model_type", "overrides", "message"), _REFUSED)
def test_what_is_not_honoured_is_refused(model_type: str, overrides: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_family(model_type).read(config_of(model_type, **overrides))


def test_deberta_tables_that_do_not_fit_are_named() -> None:
    """config.json says another number of buckets than the weights have."""
    config, model = upstream("deberta-v2", BASE)
    with pytest.raises(WeightsError, match=r"(?s)Of another shape.*rel_embeddings|Of another shape.*key_proj"):
        build({**config, "position_buckets": 32}, sources(model))
    left = {name: value for name, value in sources(model).items() if "rel_embeddings" not in name}
    with pytest.raises(WeightsError, match=r"(?s)Missing.*key_positions"):
        build(config, left)


def test_deberta_heads_of_other_checkpoints() -> None:
    """Published v3 encoders carry the newer head's weights, and their config.json does not ask for it."""
    config, model = upstream("deberta-v2", MASKED_LM, {"legacy": False})
    with pytest.raises(UnsupportedTaskError, match="no trained head for task 'fill-mask'"):
        build({**config, "legacy": True}, sources(model))
    encoder = build({**config, "legacy": True}, sources(model), "feature-extraction")
    assert encoder.signature.outputs == ("last_hidden_state",)
    # The classifier's pooler is no output of the base model.
    config, model = upstream("deberta-v2", SEQUENCE_CLASSIFICATION)
    assert build(config, sources(model), "feature-extraction").signature.outputs == ("last_hidden_state",)


@pytest.mark.parametrize(
    ("model_type", "once"),
    [
        ("mpnet", {"CumSum": 1, "Range": 1, "Clip": 1, "Gather": 5}),
        ("modernbert", {"RotaryEmbedding": 8, "Range": 2, "Where": 1, "ReduceMax": 1, "Expand": 1}),
        ("deberta-v2", {"Range": 2, "Clip": 1, "Min": 1, "Expand": 1, "GatherElements": 8}),
    ],
)
def test_positions_are_computed_once_for_all_layers(model_type: str, once: Mapping[str, int]) -> None:
    """Buckets, biases, windows and rotary tables are in the graph of four layers once, each attention as one node."""
    ours, _ = pair(model_type, BASE, num_hidden_layers=4)
    signature = ours.signature
    graph = trace(ours.model, signature.example(), signature.dynamic, signature.outputs, "encoder", signature.bounds)
    assert contract.vocabulary(graph)["Attention"] == 4
    run(graph, (FoldConstants(), Clean(), Lower(ONNXRUNTIME), FoldConstants(), Clean()))
    counts = contract.operators(graph)
    assert {name: counts.get(name, counts.get(f"com.microsoft::{name}", 0)) for name in once} == once
    assert counts["com.microsoft::MultiHeadAttention"] == 4
    tables = [name for name, value in graph.graph.initializers.items() if name.endswith("values") and value.uses()]
    assert len(tables) == {"mpnet": 1, "modernbert": 4, "deberta-v2": 1}[model_type], tables
