"""Idefics2: a decoder that reads of each picture what a few learned vectors ask of its patches.
https://arxiv.org/abs/2405.02246, https://arxiv.org/abs/2103.03206"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.families import Family, llama
from precast.export.operators import attention
from precast.export.skeletons import native
from precast.export.skeletons.joined import WritingSpec, joined
from precast.export.skeletons.native import NativeSeen, NativeSpec, NativeVision
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "ResamplerSpec", "Spec"]


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec(Base):
    """What ``perceiver_config`` says."""

    hidden_act: Activation = hf(default=activation("silu"), read=activation)
    hidden_size: int = hf(default=4096)
    rms_norm_eps: float = hf(default=1e-6)
    resampler_n_latents: int = hf(default=64)
    resampler_depth: int = hf(default=3)
    resampler_n_heads: int = hf(default=16)
    resampler_head_dim: int = hf(default=96)
    num_key_value_heads: int = hf(default=4)

    def __post_init__(self) -> None:
        if self.resampler_n_heads % self.num_key_value_heads:
            raise ConfigError(
                f"'resampler_n_heads' {self.resampler_n_heads} must be a multiple of 'num_key_value_heads' "
                f"{self.num_key_value_heads}: each of those serves a group of equal size"
            )


@dataclass(frozen=True, kw_only=True)
class Spec(WritingSpec):
    vision_config: NativeSpec = hf(default={}, spec=NativeSpec, inert=native.INERT)
    perceiver_config: ResamplerSpec = hf(default={}, spec=ResamplerSpec)
    image_token_id: int = hf(default=32001)
    tie_word_embeddings: bool = hf(default=False)

    usual_text: ClassVar[str] = "mistral"
    unsaid: ClassVar[dict[str, Any]] = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "pad_token_id": 0}
    unread: ClassVar[frozenset[str]] = native.UNREAD


class _ResamplerLayer(nn.Module):
    """Latents ask states and themselves: x = x + attention(norm(x), [norm(states), norm(x)]); x = x + mlp(norm(x))."""

    def __init__(self, spec: ResamplerSpec, size: int, epsilon: float) -> None:
        super().__init__()
        heads, kv, channels = spec.resampler_n_heads, spec.num_key_value_heads, spec.resampler_head_dim
        self.heads, self.kv_heads, self.scale = heads, kv, channels**-0.5
        self.latents_norm, self.states_norm, self.mlp_norm = (RMSNorm(size, epsilon) for _ in range(3))
        self.q_proj = nn.Linear(size, heads * channels, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(size, kv * channels, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(heads * channels, size, bias=False)
        self.mlp = GatedMLP(size, 4 * size, spec.hidden_act, bias=False)

    def forward(self, latents: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        asking = self.latents_norm(latents)
        asked = torch.cat((self.states_norm(states), asking), dim=1)
        query, key, value = self.q_proj(asking), self.k_proj(asked), self.v_proj(asked)
        heard = attention(query, key, value, mask=seen, heads=self.heads, kv_heads=self.kv_heads, scale=self.scale)
        normed, latents = self.mlp_norm.add(self.o_proj(heard), latents)
        return latents + self.mlp(normed)


class _Resampler(nn.Module):
    """States [I, P, V], which are real [I, P] -> [I, L, H], of each picture what L latents have found."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        text, own = spec.text.spec, spec.perceiver_config
        size = text.hidden_size
        # Upstream takes the language model's where the two differ.
        epsilon = own.rms_norm_eps if own.hidden_size == size else text.rms_norm_eps
        self.project = GatedMLP(
            spec.vision_config.hidden_size, text.intermediate_size, text.hidden_act, bias=False, size=size
        )
        self.latents = nn.Parameter(torch.empty(own.resampler_n_latents, size))
        self.layers = nn.ModuleList(_ResamplerLayer(own, size, epsilon) for _ in range(own.resampler_depth))
        self.norm = RMSNorm(size, epsilon)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        states = self.project(states)
        latents = self.latents.expand(states.shape[0], -1, -1)
        seen = torch.cat((seen, torch.ones_like(latents[:, :, 0], dtype=torch.int64)), dim=1)
        for layer in self.layers:
            latents = layer(latents, states, seen)
        return self.norm(latents)


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    vision = NativeVision(spec.vision_config, whole=True, square=False)
    seen = NativeSeen(vision, _Resampler(spec), spec.text.spec.hidden_size, spec.perceiver_config.resampler_n_latents)
    return joined(seen, spec.text, spec.image_token_id)


_LAYER = (
    Rename("input_latents_norm.*", "latents_norm.*"),
    Rename("input_context_norm.*", "states_norm.*"),
    Rename("post_attention_layernorm.*", "mlp_norm.*"),
    Rename("self_attn.*", "*"),
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    connector = (
        Rename("modality_projection.*", "project.*"),
        Within("perceiver_resampler.layers.{}.", _LAYER, to="layers.{}."),
        Rename("perceiver_resampler.*", "*"),
    )
    return (*native.names(spec), Within("connector.", connector, to="vision.project."))


FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=native.TOP,
    final_norm=True,
    tiny={
        "text_config": {**llama.FAMILY.tiny, "model_type": "mistral"},
        "vision_config": native.TINY,
        "perceiver_config": {"hidden_size": 32, "resampler_n_latents": 3, "resampler_depth": 2}
        | {"resampler_n_heads": 4, "resampler_head_dim": 6, "num_key_value_heads": 2},
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": {**llama.FAMILY.tiny, "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 24},
            "vision_config": native.ODD,
            "perceiver_config": {"resampler_n_latents": 2, "resampler_depth": 1, "hidden_act": "gelu"}
            | {"resampler_n_heads": 3, "resampler_head_dim": 5, "num_key_value_heads": 3},
            "image_token_id": 3,
        },
    ),
)
