"""Idefics3: a decoder that reads pictures and tiles of them, of which neighbouring patches are one feature each.
https://arxiv.org/abs/2408.12637"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from precast.export import heads
from precast.export.families import Family, llama
from precast.export.skeletons import native
from precast.export.skeletons.joined import WritingSpec, joined
from precast.export.skeletons.native import NativeSeen, NativeSpec, NativeVision
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.processors.joint import Spelled

__all__ = ["FAMILY", "Spec", "VisionSpec"]


# What its processor writes around a picture and its tiles.
_AROUND = "<fake_token_around_image>"
_SPELLED = Spelled(
    each=f"{_AROUND}<row_{{row}}_col_{{column}}>",
    line="\n",
    whole=f"\n{_AROUND}<global-img>",
    alone=f"{_AROUND}<global-img>",
    close=_AROUND,
)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(NativeSpec):
    hidden_size: int = hf(default=1152)
    num_attention_heads: int = hf(default=16)


@dataclass(frozen=True, kw_only=True)
class Spec(WritingSpec):
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec, inert=native.INERT)
    image_token_id: int = hf(default=128257)
    tie_word_embeddings: bool = hf(default=False)
    scale_factor: int = hf(default=2)

    unsaid: ClassVar[dict[str, Any]] = {"rms_norm_eps": 1e-5}
    unread: ClassVar[frozenset[str]] = native.UNREAD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_factor < 1 or self.vision_config.side % self.scale_factor:
            raise ConfigError(
                f"'scale_factor' {self.scale_factor} must divide the {self.vision_config.side} patches of a picture's "
                "side: so many by so many of them are one feature"
            )


class _Connector(nn.Module):
    """States [I, P, V] -> [I, P / S^2, H]: squares of S x S patches, projected; of padding too."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.by, self.side, width = spec.scale_factor, spec.vision_config.side, spec.vision_config.hidden_size
        self.proj = nn.Linear(width * self.by**2, spec.text.spec.hidden_size, bias=False)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        by, few = self.by, self.side // self.by
        squares = states.view(-1, few, by, few, by, states.shape[-1]).transpose(2, 3)
        return self.proj(squares.flatten(3).flatten(1, 2))


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    vision = NativeVision(spec.vision_config, whole=False, square=True)
    count = (spec.vision_config.side // spec.scale_factor) ** 2
    seen = NativeSeen(vision, _Connector(spec), spec.text.spec.hidden_size, count)
    return joined(seen, spec.text, spec.image_token_id, spelled=_SPELLED)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (*native.names(spec), Rename("connector.modality_projection.*", "vision.project.*"))


FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=native.TOP,
    final_norm=True,
    tiny={
        "text_config": {**llama.FAMILY.tiny, "model_type": "llama"},
        "vision_config": native.TINY,
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": {**llama.FAMILY.tiny, "model_type": "mistral", "num_hidden_layers": 1, "hidden_size": 24},
            "vision_config": native.ODD,
            "image_token_id": 3,
            "scale_factor": 4,
            "tie_word_embeddings": True,
        },
    ),
)
