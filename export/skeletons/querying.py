"""What BLIP's models see by: a ViT, and learned queries that read its states between layers of BERT's shape.
https://arxiv.org/abs/2201.12086, https://arxiv.org/abs/2301.12597"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CrossAttention, SelfAttention, head_size
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.families import clip_vision_model
from precast.export.image_heads import ImageModel
from precast.export.operators import attention
from precast.export.skeletons.post_norm import layer_names
from precast.export.skeletons.stack import stack
from precast.export.spec import Spec, hf
from precast.export.weights import Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError

__all__ = [
    "INERT",
    "QUERY_ODD",
    "QUERY_TINY",
    "VISION_ODD",
    "VISION_TINY",
    "QuerySpec",
    "Querying",
    "VisionSpec",
    "query_names",
    "vision",
    "vision_names",
]

# Of first weights; and the channels of the pictures' states, which upstream takes from what sees.
INERT = clip_vision_model.INERT | {"encoder_hidden_size", "pad_token_id"}


@dataclass(frozen=True, kw_only=True)
class VisionSpec(clip_vision_model.Spec):
    """What ``vision_config`` says; defaults are EVA's of 1 billion weights."""

    hidden_size: int = hf(default=1408)
    num_hidden_layers: int = hf(default=39)
    num_attention_heads: int = hf(default=16)
    intermediate_size: int = hf(default=6144)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    patch_size: int = hf(default=14)
    num_channels: int = hf(default=3, only=(3,))
    qkv_bias: bool = hf(default=True)


def vision(spec: VisionSpec) -> ImageModel:
    """Layers over patches and a class token, which a norm ends."""
    patches = Patches(spec.hidden_size, image=spec.image_size, patch=spec.patch_size, channels=spec.num_channels)
    return ImageModel(patches, stack(spec, bias=spec.qkv_bias))


def vision_names(to: str) -> tuple[Rule, ...]:
    """Of the ViT behind its prefix; ``to``: where it stands here."""
    layer = tuple(f"self_attn.{part}_proj.*" for part in "qkv")
    output = Rename("self_attn.projection.*", "self_attn.out_proj.*")
    own = (
        Within("encoder.layers.{}.", (Split("self_attn.qkv.*", layer), output)),
        clip_vision_model.layer_names("encoder.layers", "stack.layers"),
        Rename("embeddings.patch_embedding.*", "embeddings.projection.*"),
        Rename("embeddings.position_embedding", "embeddings.positions"),
        Rename("embeddings.class_embedding", "embeddings.cls_token"),
        Rename("post_layernorm.*", "stack.norm.*"),
    )
    return (Within("vision_model.", own, to=to),)


@dataclass(frozen=True, kw_only=True)
class QuerySpec(Spec):
    """What ``qformer_config`` says; defaults are BERT-base's."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-12)
    cross_attention_frequency: int = hf(default=2)
    vocab_size: int = hf(default=30522)
    max_position_embeddings: int = hf(default=512)
    use_qformer_text_input: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.num_attention_heads)
        if self.cross_attention_frequency < 1:
            raise ConfigError(
                f"'cross_attention_frequency' {self.cross_attention_frequency} must be 1 or more: of so many layers "
                "one reads the picture"
            )


class _Layer(nn.Module):
    """Queries and a text, [I, Q + T, D], read one another; queries read states [I, P, V] of a picture, in some layers;
    and each is transformed by a part of its own."""

    def __init__(self, spec: QuerySpec, source: int, *, cross: bool, text: bool) -> None:
        super().__init__()
        size, heads, epsilon = spec.hidden_size, spec.num_attention_heads, spec.layer_norm_eps
        self.self_attn, self.attention_norm = SelfAttention(size, heads=heads), LayerNorm(size, epsilon)
        self.cross = CrossAttention(size, heads=heads, source=source) if cross else None
        self.cross_norm = LayerNorm(size, epsilon) if cross else None
        self.mlp, self.mlp_norm = MLP(size, spec.intermediate_size, spec.hidden_act), LayerNorm(size, epsilon)
        self.text_mlp = MLP(size, spec.intermediate_size, spec.hidden_act) if text else None
        self.text_norm = LayerNorm(size, epsilon) if text else None

    def forward(self, x: Tensor, states: Tensor, mask: Tensor | None, count: int) -> Tensor:
        x, _ = self.attention_norm.add(self.self_attn(x, mask), x)
        asking, read = (x, None) if self.text_mlp is None else (x[:, :count], x[:, count:])
        if self.cross is not None and self.cross_norm is not None:
            query, (key, value) = self.cross.q_proj(asking), self.cross.keys_and_values(states)
            seen = attention(query, key, value, heads=self.cross.heads, scale=self.cross.scale)
            asking, _ = self.cross_norm.add(self.cross.o_proj(seen), asking)
        asking, _ = self.mlp_norm.add(self.mlp(asking), asking)
        if read is None or self.text_mlp is None or self.text_norm is None:
            return asking
        read, _ = self.text_norm.add(self.text_mlp(read), read)
        return torch.cat((asking, read), dim=1)


class Querying(nn.Module):
    """States [I, P, V], and a text that is read beside the queries or none -> [I, Q, H], what Q queries have found.

    Args:
        source: V. width: H. count: Q. text: there is one, ids and mask [I, T].
    """

    def __init__(self, spec: QuerySpec, source: int, width: int, count: int, *, text: bool = False) -> None:
        super().__init__()
        size = spec.hidden_size
        self.queries, self.norm = nn.Parameter(torch.empty(1, count, size)), LayerNorm(size, spec.layer_norm_eps)
        places = LearnedPositions(spec.max_position_embeddings, size) if text else None
        words = TextEmbeddings(spec.vocab_size, size, positions=places, token_types=0, norm=None) if text else None
        self.embeddings = words
        self.layers = nn.ModuleList(
            _Layer(spec, source, cross=number % spec.cross_attention_frequency == 0, text=text)
            for number in range(spec.num_hidden_layers)
        )
        self.project = nn.Linear(size, width)

    def forward(self, states: Tensor, ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        count = self.queries.shape[1]
        x = self.queries.expand(states.shape[0], -1, -1)
        if self.embeddings is not None and ids is not None and mask is not None:
            x = torch.cat((x, self.embeddings(ids)), dim=1)
            mask = torch.cat((torch.ones_like(x[:, :count, 0], dtype=torch.int64), mask), dim=1)
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, states, mask, count)
        return self.project(x[:, :count])


def query_names(to: str) -> tuple[Rule, ...]:
    """Of the queries and what reads by them; ``to``: where it stands here."""
    reading = {part: f"attention.attention.{old}" for part, old in _PARTS.items()}
    crossing = {part: f"crossattention.attention.{old}" for part, old in _PARTS.items()}
    layer = (
        *(Rename(f"{old}.*", f"cross.{part}.*") for part, old in crossing.items()),
        Rename("crossattention.output.dense.*", "cross.o_proj.*"),
        Rename("crossattention.output.LayerNorm.*", "cross_norm.*"),
        Rename("intermediate.dense.*", "text_mlp.up_proj.*"),
        Rename("output.dense.*", "text_mlp.down_proj.*"),
        Rename("output.LayerNorm.*", "text_norm.*"),
        *layer_names(
            **reading,
            up_proj="intermediate_query.dense",
            down_proj="output_query.dense",
            mlp_norm="output_query.LayerNorm",
        ),
    )
    own = (
        Within("encoder.layer.{}.", layer, to="layers.{}."),
        Rename("layernorm.*", "norm.*"),
        Rename("embeddings.layernorm.*", "norm.*"),
        Rename("embeddings.word_embeddings.*", "embeddings.words.*"),
        Rename("embeddings.position_embeddings.*", "embeddings.positions.table.*"),
    )
    return (
        Within("qformer.", own, to=to),
        Rename("query_tokens", f"{to}queries"),
        Rename("language_projection.*", f"{to}project.*"),
    )


_PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}

VISION_TINY: Mapping[str, Any] = clip_vision_model.TINY
VISION_ODD: Mapping[str, Any] = {
    key: value for key, value in {**clip_vision_model.ODD, "qkv_bias": False}.items() if key != "num_channels"
}
QUERY_TINY: Mapping[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36, "vocab_size": 57,
    "max_position_embeddings": 96,
}  # fmt: skip
QUERY_ODD: Mapping[str, Any] = {
    "hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 29, "vocab_size": 41,
    "max_position_embeddings": 64, "hidden_act": "relu", "layer_norm_eps": 1e-5, "cross_attention_frequency": 1,
}  # fmt: skip
