"""Models of pages: configs as they were released, sizes that do not fit, and what a box is bounded by."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from precast.export.families import find_family
from precast.export.heads import BASE
from precast.export.operators import counted
from precast.export.signatures import signature
from precast.runtime.errors import ConfigError

_BERT: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 514, "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265, "layer_norm_eps": 1e-05,
    "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "use_cache": True, "bos_token_id": 0,
    "eos_token_id": 2, "gradient_checkpointing": False, "position_embedding_type": "absolute",
}  # fmt: skip
RELEASED: dict[str, dict[str, Any]] = {
    "layoutlm": {
        **_BERT,
        "max_2d_position_embeddings": 1024,
        "output_past": True,
        "tokenizer_class": "RobertaTokenizer",
    },
    "lilt": {**_BERT, "max_2d_position_embeddings": 1024, "channel_shrink_ratio": 4, "classifier_dropout": None},
    "bros": {**_BERT, "bbox_scale": 100.0, "dim_bbox": 8, "n_relations": 1, "pe_type": "crel"}
    | {"dim_bbox_projection": 64, "dim_bbox_sinusoid_emb_1d": 24, "dim_bbox_sinusoid_emb_2d": 192},
    "layoutlmv3": {**_BERT, "coordinate_size": 128, "shape_size": 128, "max_2d_position_embeddings": 1024}
    | {"has_relative_attention_bias": True, "has_spatial_attention_bias": True, "rel_pos_bins": 32, "max_rel_pos": 128}
    | {"rel_2d_pos_bins": 64, "max_rel_2d_pos": 256, "input_size": 224, "second_input_size": 112, "patch_size": 16}
    | {"num_channels": 3, "text_embed": True, "visual_embed": True, "classifier_dropout": None},
}


def built(model_type: str, config: dict[str, Any]) -> Any:
    family = find_family(model_type)
    with torch.device("meta"):
        return family.heads[BASE](family.read({"model_type": model_type, **config}), frozenset())


@pytest.mark.parametrize("model_type", RELEASED)
def test_released_configs_are_read(model_type: str) -> None:
    model = built(model_type, RELEASED[model_type])
    sizes = {"layoutlm": 128, "lilt": 130, "bros": 125, "layoutlmv3": 125}
    count = sum(value.numel() for value in model.parameters())
    assert round(count / 1e6) == sizes[model_type], count
    ports = {port.name: port for port in signature(model).ports}
    boxes = ports["bbox"]
    assert boxes.shape == ("batch", "sequence", 4) and boxes.kind == "boxes"
    # Parts of a page are numbered to 1000, though there are more rows; BROS's are parts of one, and must be given.
    assert (boxes.dtype, boxes.below, boxes.default) == (
        ("float32", 2, None) if model_type == "bros" else ("int64", 1001, 0)
    )
    assert ("pixel_values" in ports) == (model_type == "layoutlmv3")


@pytest.mark.parametrize(
    ("model_type", "wrong", "message"),
    [
        (
            "lilt",
            {"channel_shrink_ratio": 5},
            "'channel_shrink_ratio' must divide the 12 channels of a head; received 5",
        ),
        ("lilt", {"hidden_size": 32}, "a box is six parts of 'hidden_size', which 6 must divide; received 32"),
        ("lilt", {"pad_token_id": None}, "positions are counted from the padding token"),
        ("bros", {"hidden_size": 96}, "'hidden_size' must be a multiple of 64, as boxes are; received 96"),
        ("bros", {"dim_bbox": 4}, "'dim_bbox' is 4, and only 8 is honoured here"),
        ("layoutlmv3", {"shape_size": 5}, "are 'hidden_size'; received 34 and 32"),
        ("layoutlmv3", {"text_embed": False}, "'text_embed' is False, and only True is honoured here"),
        ("layoutlmv3", {"patch_size": [8, 8]}, r"'patch_size' is \[8, 8\], expected int"),
    ],
)
def test_sizes_that_do_not_fit(model_type: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(model_type, {**find_family(model_type).tiny, **wrong})


@pytest.mark.parametrize("model_type", RELEASED)
def test_layers_are_one_attention_each(model_type: str) -> None:
    family = find_family(model_type)
    model = family.heads[BASE](family.read({"model_type": model_type, **family.tiny}), frozenset())
    assert counted(model, signature(model).example())["Attention"] == 2
