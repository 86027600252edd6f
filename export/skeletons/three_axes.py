"""Decoders that know of each token where it stands in time, in height and in width: Qwen2's layers, whose channels turn
by one of the three each. https://arxiv.org/abs/2409.12191"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.rope import Rope
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family, llama, qwen2
from precast.export.head_sets.decoders import causal_heads, layer
from precast.export.operators import rotary_angles
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.runtime.errors import ConfigError
from precast.runtime.generation.grids import AXES

__all__ = ["ODD_TEXT", "TEXT", "TINY_TEXT", "NestedFamily", "TextSpec"]


@dataclass(frozen=True, kw_only=True)
class TextSpec(qwen2.Qwen2Spec):
    """What ``text_config`` says, or older files beside ``vision_config``."""

    vocab_size: int = hf(default=152064)
    hidden_size: int = hf(default=8192)
    intermediate_size: int = hf(default=29568)
    num_hidden_layers: int = hf(default=80)
    num_attention_heads: int = hf(default=64)
    num_key_value_heads: int | None = hf(default=8)
    rms_norm_eps: float = hf(default=1e-5)
    max_window_layers: int = hf(default=80)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.sections) < 0 or sum(self.sections) != self.size // 2:
            raise ConfigError(
                f"'mrope_section' {list(self.sections)} must be parts of the {self.size // 2} pairs of channels of a "
                "head, for time, height and width"
            )

    @property
    def sections(self) -> tuple[int, ...]:
        """Pairs of channels that turn by time, by height and by width, again and again."""
        said = self.rope_scaling or self.rope_parameters or {}
        return tuple(said.get("mrope_section", (16, 24, 24)))

    @property
    def rope(self) -> Rope:
        return self._rope(parameters=_turned(self.rope_parameters), scaling=_turned(self.rope_scaling), base=1e6)


def _turned(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rotary parameters without what says which positions turn which channels."""
    kept = {key: value for key, value in (said or {}).items() if key not in ("mrope_section", "type")}
    kind = kept.get("rope_type", (said or {}).get("type", "default"))
    return None if said is None else {**kept, "rope_type": "default" if kind == "mrope" else kind}


class _Sectioned(SteppedRotary):
    """Positions [B, S, 3] turn sections of channels each."""

    sections: tuple[int, ...] = ()

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = [rotary_angles(positions[..., axis], self.frequencies(), self.scale) for axis in range(AXES)]
        cos, sin = (torch.cat(self._sections(kind), dim=1) for kind in zip(*made, strict=True))
        batch, length, _ = positions.shape
        return cos, sin, torch.arange(batch * length, device=positions.device).view(batch, length)

    def _sections(self, axes: Sequence[Tensor]) -> list[Tensor]:
        """Of cosines or sines by time, height and width [B * S, R / 2], the sections of channels that turn by each."""
        split = [axis.split(self.sections, dim=1) for axis in axes]
        return [split[place % AXES][place] for place in range(len(self.sections))]


def _layers(spec: TextSpec) -> list[nn.Module]:
    rope = spec.rope.module()
    positions = _Sectioned(spec.size, rope.frequencies.compute, rope.scale, longest=rope.longest)
    positions.sections = spec.sections
    return [layer(spec, bias=True, out_bias=False, positions=positions, window=window) for window in spec.windows]


TEXT = Family(spec=TextSpec, heads=causal_heads(_layers), weights=llama.weights, tiny={})


@dataclass(frozen=True, kw_only=True)
class NestedFamily(Family):
    """Older files say of the decoder beside ``vision_config`` what newer ones say in ``text_config``."""

    def read(self, config: Mapping[str, Any]) -> Base:
        return super().read(_nested(config))

    def ignored(self, config: Mapping[str, Any], spec: Base) -> tuple[str, ...]:
        return super().ignored(_nested(config), spec)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("text_config") is not None:
        return dict(config)
    keys = {key for entry in dataclasses.fields(TextSpec) for key in (entry.metadata.get("keys") or (entry.name,))}
    keys -= {entry.name for entry in dataclasses.fields(Base)}
    text = {key: value for key, value in config.items() if key in keys}
    return {**{key: value for key, value in config.items() if key not in text}, "text_config": text}


_ROPE = {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [1, 1, 2]}
TINY_TEXT: Mapping[str, Any] = {
    **{key: value for key, value in llama.FAMILY.tiny.items() if key != "pad_token_id"},
    "rope_parameters": _ROPE,
}
ODD_TEXT: Mapping[str, Any] = {
    **TINY_TEXT, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 3,
    "rope_parameters": {**_ROPE, "mrope_section": [2, 0, 2]}, "use_sliding_window": True, "sliding_window": 7,
    "max_window_layers": 0,
}  # fmt: skip
