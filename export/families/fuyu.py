"""Fuyu: a decoder that reads patches of pictures through one linear layer. https://www.adept.ai/blog/fuyu-8b"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from precast.export import heads
from precast.export.families import Family, persimmon
from precast.export.skeletons.joined import Seen, WritingSpec, joined, text_names
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.generation.among import FEATURES
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(WritingSpec):
    patch_size: int = hf(default=30)
    num_channels: int = hf(default=3)
    image_token_id: int = hf(default=71011)
    tie_word_embeddings: bool = hf(default=False)

    usual_text: ClassVar[str] = "persimmon"


class _Seen(Seen):
    """Patches [I, P * P * C], line by line of their pictures -> a feature of each."""

    def __init__(self, spec: Spec) -> None:
        self.inputs = spec.patch_size**2 * spec.num_channels
        width = spec.text.spec.hidden_size
        super().__init__(None, nn.Linear(self.inputs, width), width)

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("images", self.inputs), "pixels"),)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {FEATURES: self.project(pixel_values)}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return joined(_Seen(spec), spec.text, spec.image_token_id)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    project = Rename("vision_embed_tokens.*", "vision.project.*")
    return (Rename("model.vision_embed_tokens.*", "vision_embed_tokens.*"), project, *text_names(spec))


class _Family(Family):
    """Older files say of the decoder beside the patches what newer ones say in ``text_config``."""

    def read(self, config: Mapping[str, Any]) -> Base:
        return super().read(_nested(config))

    def ignored(self, config: Mapping[str, Any], spec: Base) -> tuple[str, ...]:
        return super().ignored(_nested(config), spec)


_TEXT = frozenset(
    """vocab_size max_position_embeddings hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act
    layer_norm_eps qk_layernorm rope_scaling rope_theta rope_parameters partial_rotary_factor hidden_dropout""".split()
)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("text_config") is not None:
        return dict(config)
    text = {key: value for key, value in config.items() if key in _TEXT}
    return {**{key: value for key, value in config.items() if key not in text}, "text_config": text or None}


FAMILY = _Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=frozenset({"image_size"}),  # of the processor
    final_norm=True,
    tiny={"text_config": {**persimmon.FAMILY.tiny, "model_type": "persimmon"}, "patch_size": 4, "image_token_id": 98},
    variations=(
        {
            "text_config": {**persimmon.FAMILY.tiny, **persimmon.FAMILY.variations[0], "model_type": "persimmon"},
            "patch_size": 3,
            "num_channels": 1,
            "image_token_id": 3,
            "tie_word_embeddings": True,
        },
    ),
)
