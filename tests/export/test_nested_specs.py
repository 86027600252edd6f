"""Objects inside config.json, read into specs of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from precast.export.families import Family, LabelSpec, TextSpec, find_family
from precast.export.spec import Spec, hf, ignored_keys, read_spec
from precast.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Text(TextSpec):
    hidden_size: int
    num_attention_heads: int = hf(default=2)
    rope: dict[str, Any] | None = hf("rope_scaling", default=None)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"{self.num_attention_heads} heads do not share {self.hidden_size} channels")

    def ignored(self) -> tuple[str, ...]:
        return tuple(f"rope_scaling.{key}" for key in self.rope or ())


@dataclass(frozen=True, kw_only=True)
class Vision(Spec):
    hidden_size: int = hf(default=8)


@dataclass(frozen=True, kw_only=True)
class Both(LabelSpec):
    text: Text = hf("text_config", spec=Text, inert=frozenset({"layerdrop"}))
    vision: Vision = hf("vision_config", default={}, spec=Vision)
    audio: Vision | None = hf("audio_config", default=None, spec=Vision)


TEXT = {"hidden_size": 6, "vocab_size": 9}


def test_a_nested_object_is_a_spec() -> None:
    spec = read_spec(Both, {"text_config": TEXT, "vision_config": {"hidden_size": 5}, "num_labels": 3})
    assert spec.text == read_spec(Text, TEXT)
    assert (spec.vision.hidden_size, spec.audio, spec.labels) == (5, None, 3)


@pytest.mark.parametrize("said", [{}, {"vision_config": None}, {"vision_config": {}}])
def test_a_default_of_nothing_is_the_class_s_own(said: dict[str, Any]) -> None:
    assert read_spec(Both, {"text_config": TEXT, **said}).vision == Vision(hidden_size=8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"^'text_config' is missing:"),
        ({"text_config": None}, r"^'text_config' is None, expected an object:"),
        ({"text_config": 5}, r"^'text_config' is 5, expected an object:"),
        ({"text_config": {**TEXT, "hidden_size": "6"}}, r"^'text_config.hidden_size' is '6', expected int:"),
        ({"text_config": {**TEXT, "is_decoder": True}}, r"^'text_config.is_decoder' is True, and only False is hon"),
        ({"text_config": {**TEXT, "rope_theta": 5.0}}, r"^'text_config.rope_theta' = 5.0 is not honoured here"),
        ({"text_config": {**TEXT, "num_attention_heads": 4}}, r"^'text_config': 4 heads do not share 6 channels:"),
        ({"text_config": TEXT, "vision_config": {"layerdrop": 0.1}}, r"^'vision_config.layerdrop' = 0.1 is not hon"),
        (
            {
                "text_config": {"hiden_size": 6},
                "vision_config": {"hidden_size": None, "layerdrop": 0},
                "num_labels": "2",
            },
            r"^'num_labels' is '2', expected int; 'text_config.vocab_size' is missing\. Closest: hiden_size; "
            r"'text_config.hidden_size' is missing. Closest: hiden_size; 'vision_config.layerdrop' = 0 is not honoured",
        ),
    ],
)
def test_problems_are_told_with_their_path(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_spec(Both, config)


def test_keys_that_change_nothing_are_told_with_their_path() -> None:
    text = {**TEXT, "layerdrop": 0.5, "a note": 1, "rope_scaling": {"mine": 2}, "dropout": 0.1}
    config = {"text_config": text, "vision_config": {"theirs": 3}, "model_type": "both"}
    assert ignored_keys(Both, config) == ("text_config.a note", "vision_config.theirs")
    family = Family(spec=Both, heads={}, weights=lambda spec: (), tiny={})
    told = ("text_config.a note", "vision_config.theirs", "text_config.rope_scaling.mine")
    assert family.ignored(config, family.read(config)) == told


def test_what_upstream_says_of_every_part_is_no_question() -> None:
    """Files of composites hold all that a config class has: words that a part has none of are tied, by default."""
    said = {"text_config": TEXT, "vision_config": {"hidden_size": 5, "tie_word_embeddings": True}}
    assert read_spec(Both, said).vision.hidden_size == 5
    said["vision_config"] = {"tie_word_embeddings": False}
    with pytest.raises(ConfigError, match=r"'vision_config\.tie_word_embeddings' = False is not honoured here"):
        read_spec(Both, said)
    with pytest.raises(ConfigError, match="'tie_word_embeddings' = True is not honoured here"):
        read_spec(Vision, {"tie_word_embeddings": True})


def test_of_two_keys_the_first_that_is_not_null_counts() -> None:
    """As CLIP's older checkpoints name the objects of their towers."""
    family = find_family("clip")
    both = {"text_config": {"hidden_size": 8, "eos_token_id": 2}, "vision_config_dict": None}
    spec: Any = family.read({**both, "text_config_dict": {"hidden_size": 16}, "vision_config": {"patch_size": 14}})
    assert (spec.text.hidden_size, spec.text.eos_token_id, spec.vision.patch_size) == (16, 49407, 14)
    with pytest.raises(ConfigError, match=r"'text_config_dict\.type_vocab_size' = 3 is not honoured"):
        family.read({**both, "text_config_dict": {"type_vocab_size": 3}})


# What released checkpoints say beside sizes.
RELEASED: dict[str, dict[str, Any]] = {
    "altclip": {"text_config": {"pooler_fn": "cls", "position_embedding_type": "absolute"}, "num_layers": 3},
    "chinese_clip": {"text_config": {"use_cache": True}, "vision_config_dict": {"patch_size": 16}},
    "clap": {
        "text_config": {"fusion_hidden_size": 768, "fusion_num_hidden_layers": 2, "projection_hidden_act": "relu"},
        "audio_config": {"num_classes": 527, "drop_path_rate": 0.0, "fusion_type": None, "patch_stride": [4, 4]},
        "hidden_size": 768,
    },
    "clipseg": {"decoder_hidden_act": "quick_gelu", "use_complex_transposed_convolution": True},
    "siglip": {"vision_config": {"image_size": 384, "patch_size": 14}, "initializer_factor": 1.0},
    "xclip": {"prompt_alpha": 0.1, "prompt_projection_dropout": 0.0, "vision_config": {"drop_path_rate": 0.0}},
}


@pytest.mark.parametrize("model_type", RELEASED)
def test_towers_read_what_is_released(model_type: str) -> None:
    find_family(model_type).read({**RELEASED[model_type], "model_type": model_type})
