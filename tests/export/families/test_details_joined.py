"""Decoders that read pictures: what config.json may not ask of them, and is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from precast.export.families import find_family, t5
from precast.runtime.errors import ConfigError

TINY_T5 = {**t5.FAMILY.tiny, "model_type": "t5"}


@pytest.mark.parametrize(
    ("model_type", "changed", "message"),
    [
        ("blip-2", {"text_config": TINY_T5, "is_encoder_decoder": True}, "'t5' is no decoder that continues texts"),
        ("blip-2", {"text_config": {"word_embed_proj_dim": 16}}, "word_embed_proj_dim' 16 must be 'hidden_size' 768"),
        ("instructblip", {"image_token_index": None}, "'image_token_index' is None, expected int"),
        ("llava_next", {"image_grid_pinpoints": [[12, 18]]}, "must be pairs of multiples of vision_config's 'image_si"),
        ("idefics3", {"scale_factor": 3}, "'scale_factor' 3 must divide the 4 patches of a picture's side"),
        ("idefics2", {"perceiver_config": {"num_key_value_heads": 3}}, "'resampler_n_heads' 16 must be a multiple of"),
        (
            "qwen2_vl",
            {"text_config": {"num_attention_heads": 32}},
            r"mrope_section' \[16, 24, 24\] must be parts of the",
        ),
        (
            "qwen2_vl",
            {"vision_config": {"hidden_size": 16}},
            "features have 16 channels, and must have the decoder's 32",
        ),
        ("qwen2_5_vl", {"vision_config": {"window_size": 20}}, "window_size' 20 must be 28 or more"),
        ("smolvlm", {"vision_config": {"patch_size": 300}}, "'vision_config.patch_size' 300 must be 1 to 'image_size'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(model_type: str, changed: Mapping[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({**family.tiny, **changed, "model_type": model_type})


def test_keys_of_a_class_that_the_decoder_once_had_are_read_by_nobody() -> None:
    """As SmolVLM's checkpoints have them."""
    family = find_family("smolvlm")
    said = {"perceiver_config": {"model_type": "vllama3"}, "qk_layer_norms": False, "use_resampler": False}
    text = {**family.tiny["text_config"], **said, "pixel_shuffle_factor": 4}
    read: Any = family.read({**family.tiny, "text_config": text})
    assert read.text.spec == family.read(family.tiny).text.spec  # type: ignore[attr-defined]


def test_older_files_say_of_the_decoder_beside_what_sees() -> None:
    """As Qwen2-VL's checkpoints have it, with their kind of rotary positions."""
    family = find_family("qwen2_vl")
    rope = {"type": "mrope", "mrope_section": [1, 1, 2]}
    text = {key: value for key, value in family.tiny["text_config"].items() if key != "rope_parameters"}
    old = {**text, "rope_scaling": rope, "rope_theta": 300.0, "use_sliding_window": False, "sliding_window": 32768}
    read: Any = family.read({**old, "vision_config": {**family.tiny["vision_config"], "in_chans": 3}})
    new: Any = family.read(family.tiny)
    assert read.text.spec.rope == new.text.spec.rope and read.text.spec.sections == (1, 1, 2)
    assert read.vision_config == new.vision_config
    assert not family.ignored(family.tiny, new)


def test_older_files_of_fuyu_say_of_the_decoder_beside_the_patches() -> None:
    family = find_family("fuyu")
    text = {
        key: value for key, value in family.tiny["text_config"].items() if key not in ("model_type", "pad_token_id")
    }
    old = {**text, "patch_size": 4, "image_token_id": 98, "image_size": 300, "rope_theta": 25000.0}
    read: Any = family.read(old)
    assert read.text.spec.rope.theta == 25000.0 and read.text.spec.rope.size == 4
    assert read.text.spec.hidden_size == 32
