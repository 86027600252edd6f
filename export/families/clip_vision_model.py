"""CLIP's tower of pictures: a ViT with a norm in front of its layers. https://arxiv.org/abs/2103.00020"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.blocks.resample import Bicubic
from precast.export.families import Family
from precast.export.image_heads import ImageFeatures, ImageModel
from precast.export.skeletons.stack import stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Unsqueeze, Within

__all__ = ["FAMILY", "INERT", "ODD", "TINY", "Spec", "body", "layer_names", "names", "patch_names", "pooler"]

# The projection is the composite's.
INERT = frozenset({"initializer_factor", "projection_dim", "model_type"})


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are ViT-B/32's."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    image_size: int = hf(default=224)
    patch_size: int = hf(default=32)
    num_channels: int = hf(default=3)


class _FirstNormed(nn.Module):
    """norm(first state), [I, S, H] -> [I, H]."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(states[:, 0])


def body(spec: Spec, *, free: bool = False) -> ImageModel:
    """Layers over patches and a class token; no norm ends them. ``free``: pictures have any size."""
    size, image, patch = spec.hidden_size, spec.image_size, spec.patch_size
    resize = Bicubic(image // patch) if free else None
    patches = Patches(size, image=image, patch=patch, channels=spec.num_channels, bias=False, resize=resize)
    return ImageModel(patches, stack(spec, normed=False), before=LayerNorm(size, spec.layer_norm_eps))


def pooler(spec: Spec) -> nn.Module:
    """What makes one vector of a picture's states."""
    return _FirstNormed(LayerNorm(spec.hidden_size, spec.layer_norm_eps))


def layer_names(old: str, new: str) -> Within:
    """Names of the layers of either tower."""
    layer = (
        Rename("self_attn.out_proj.*", "self_attn.o_proj.*"),
        Rename("layer_norm1.*", "attention_norm.*"),
        Rename("layer_norm2.*", "mlp_norm.*"),
        Rename("mlp.fc1.*", "mlp.up_proj.*"),
        Rename("mlp.fc2.*", "mlp.down_proj.*"),
    )
    return Within(f"{old}.{{}}.", layer, to=f"{new}.{{}}.")


def patch_names() -> tuple[Rule, ...]:
    """Names of patches, of their positions, and of layers over them."""
    return (
        Ignore("embeddings.position_ids"),
        layer_names("encoder.layers", "model.stack.layers"),
        Rename("embeddings.patch_embedding.*", "model.embeddings.projection.*"),
        Unsqueeze("embeddings.position_embedding.weight", 1),
        Rename("embeddings.position_embedding.weight", "model.embeddings.positions"),
    )


def names() -> tuple[Rule, ...]:
    """Names behind a composite's prefix of the tower."""
    return (
        *patch_names(),
        Unsqueeze("embeddings.class_embedding", 2),
        Rename("embeddings.class_embedding", "model.embeddings.cls_token"),
        Rename("pre_layrnorm.*", "model.before.*"),  # upstream's spelling
        Rename("post_layernorm.*", "pooler.norm.*"),
    )


TINY: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 30,
    "patch_size": 6,
}  # fmt: skip
ODD: Mapping[str, Any] = {
    "hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37, "image_size": 23,
    "patch_size": 5, "num_channels": 1, "hidden_act": "gelu",
}  # fmt: skip

FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: lambda spec, absent: ImageFeatures(body(spec), pooler(spec))},
    weights=lambda spec: (Rename("vision_model.*", "*"), *names()),  # as checkpoints before transformers 5 have them
    inert=INERT,
    body=body,
    tiny=TINY,
    variations=(ODD,),
)
