"""SigLIP's tower of pictures: a ViT without a class token, whose states are read by attention of one learned query.
https://arxiv.org/abs/2303.15343"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.families import Family, clip_vision_model
from precast.export.image_heads import ImageFeatures, ImageModel
from precast.export.operators import attention
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Split

__all__ = ["FAMILY", "ODD", "TINY", "Spec", "body", "names", "pooler"]


@dataclass(frozen=True, kw_only=True)
class Spec(clip_vision_model.Spec):
    """Defaults are those of SigLIP-base."""

    hidden_act: Activation = hf(default=activation("gelu_pytorch_tanh"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    patch_size: int = hf(default=16)
    vision_use_head: bool = hf(default=True)


class _Pool(nn.Module):
    """States [I, S, H] -> what one learned query makes of them, [I, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        hidden, self.heads = spec.hidden_size, spec.num_attention_heads
        self.scale = head_size(hidden, self.heads) ** -0.5
        self.probe = nn.Parameter(torch.empty(1, 1, hidden))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(hidden, hidden) for _ in range(4))
        self.norm = LayerNorm(hidden, spec.layer_norm_eps)
        self.mlp = MLP(hidden, spec.intermediate_size, spec.hidden_act)

    def forward(self, states: Tensor) -> Tensor:
        query = self.q_proj(self.probe).expand(states.shape[0], -1, -1)
        x = self.o_proj(attention(query, self.k_proj(states), self.v_proj(states), heads=self.heads, scale=self.scale))
        return (x + self.mlp(self.norm(x)))[:, 0]


def body(spec: Spec) -> ImageModel:
    """Layers over patches, which a norm ends."""
    image, patch, channels = spec.image_size, spec.patch_size, spec.num_channels
    return ImageModel(Patches(spec.hidden_size, image=image, patch=patch, channels=channels, tokens=()), stack(spec))


def pooler(spec: Spec) -> nn.Module | None:
    """What makes one vector of a picture's states, where the model has it."""
    return _Pool(spec) if spec.vision_use_head else None


def names() -> tuple[Rule, ...]:
    """Names behind a composite's prefix of the tower."""
    parts = tuple(f"pooler.{part}_proj" for part in "qkv")
    return (
        *clip_vision_model.patch_names(),
        Rename("post_layernorm.*", "model.stack.norm.*"),
        Rename("head.probe", "pooler.probe"),
        *(Split(f"head.attention.in_proj_{kind}", tuple(f"{p}.{kind}" for p in parts)) for kind in ("weight", "bias")),
        Rename("head.attention.out_proj.*", "pooler.o_proj.*"),
        Rename("head.layernorm.*", "pooler.norm.*"),
        Rename("head.mlp.fc1.*", "pooler.mlp.up_proj.*"),
        Rename("head.mlp.fc2.*", "pooler.mlp.down_proj.*"),
    )


TINY, ODD = clip_vision_model.TINY, {**clip_vision_model.ODD, "layer_norm_eps": 1e-3}

FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: lambda spec, absent: ImageFeatures(body(spec), pooler(spec))},
    weights=lambda spec: (Rename("vision_model.*", "*"), *names()),  # as checkpoints before transformers 5 have them
    inert=clip_vision_model.INERT,
    body=body,
    final_norm=True,
    tiny=TINY,
    variations=(ODD, {"vision_use_head": False}),
)
