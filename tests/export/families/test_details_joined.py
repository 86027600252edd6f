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
