"""Details of vision transformers that no config of the usual tests shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from support.oracle import apart, float64, randomise, sources, upstream, widened

from precast.export.heads import IMAGE_CLASSIFICATION
from precast.export.reference import build


def made(name: str, model_type: str, **values: Any) -> tuple[dict[str, Any], Any]:
    """(config.json, model) of one of upstream's classes, every weight random."""
    config = transformers.AutoConfig.for_model(model_type, **values)
    config._attn_implementation = "eager"
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    randomise(model)
    return {**config.to_dict(), "architectures": [name]}, model


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
SQUARE = {"image_size": 30, "patch_size": 6, "encoder_stride": 6}


@pytest.mark.parametrize(("name", "model_type"), [("ViT", "vit"), ("DeiT", "deit")])
def test_what_only_masked_pictures_need_is_left_out(name: str, model_type: str) -> None:
    config, model = made(f"{name}ForMaskedImageModeling", model_type, **TINY, **SQUARE)
    ours = build(config, sources(model), "feature-extraction", dtype=torch.float64)
    assert set(ours.ignored) == {f"{model_type}.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}
    pixels = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    with float64():
        expected = getattr(widened(model), model_type)(pixels)
    found = ours.model(pixels)
    assert list(found) == ["last_hidden_state"] and apart(found["last_hidden_state"], expected[0]) <= 1


def test_the_weights_say_whether_there_was_a_teacher() -> None:
    overrides = {"architectures": ["DeiTForImageClassificationWithTeacher"]}
    config, model = upstream("deit", IMAGE_CLASSIFICATION, overrides)
    assert build(config, sources(model)).signature.outputs == ("logits", "cls_logits", "distillation_logits")
    # By the task alone, as where config.json was lost.
    silent = {key: value for key, value in config.items() if key != "architectures"}
    assert len(build(silent, sources(model), "image-classification").signature.outputs) == 3
    config, model = upstream("deit", IMAGE_CLASSIFICATION)
    assert build(config, sources(model)).signature.outputs == ("logits",)
