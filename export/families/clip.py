"""CLIP: a tower of text and one of pictures, whose projections meet in one space. https://arxiv.org/abs/2103.00020

Three components: ``text`` and ``vision`` make embeddings, ``similarity`` compares those it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings, mask_port
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.image_heads import ImageModel
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Unsqueeze, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec", "TextSpec", "VisionSpec"]

_LEGACY_END = 2  # configs that say so mean the largest id of a text
_INERT = frozenset({"initializer_factor", "projection_dim", "model_type"})  # the projection is the composite's


@dataclass(frozen=True, kw_only=True)
class _Tower(Base):
    """What both configs state."""

    num_hidden_layers: int = hf(default=12)
    hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)


@dataclass(frozen=True, kw_only=True)
class TextSpec(_Tower):
    """Defaults are ViT-B/32's, as are the other's."""

    vocab_size: int = hf(default=49408)
    eos_token_id: int = hf(default=49407)
    hidden_size: int = hf(default=512)
    num_attention_heads: int = hf(default=8)
    intermediate_size: int = hf(default=2048)
    max_position_embeddings: int = hf(default=77)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(_Tower):
    hidden_size: int = hf(default=768)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    image_size: int = hf(default=224)
    patch_size: int = hf(default=32)
    num_channels: int = hf(default=3)


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_INERT)
    vision: VisionSpec = hf("vision_config", default={}, spec=VisionSpec, inert=_INERT)
    projection_dim: int = hf(default=512)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


class TextEmbeds(Component):
    """ids, mask [T, S] -> {"text_embeds": [T, P]} of length 1, read at the first end-of-text token."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        text, self.width = spec.text, spec.projection_dim
        self.end = text.eos_token_id
        positions = LearnedPositions(text.max_position_embeddings, text.hidden_size)
        self.embeddings = TextEmbeddings(
            text.vocab_size, text.hidden_size, positions=positions, token_types=0, norm=None
        )
        self.stack = stack(text, causal=True)
        self.projection = nn.Linear(text.hidden_size, spec.projection_dim, bias=False)

    def ports(self) -> tuple[Port, ...]:
        words = self.embeddings.ports()[0]._replace(shape=("texts", "sequence"))
        return words, mask_port(words)

    def outs(self) -> tuple[Out, ...]:
        return (Out("text_embeds", ("texts", self.width), "embedding"),)

    def ends(self) -> Mapping[str, int]:
        return {} if self.end == _LEGACY_END else {"input_ids": self.end}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states = self.stack(self.embeddings(input_ids), attention_mask)
        ends = input_ids if self.end == _LEGACY_END else (input_ids == self.end).to(torch.int64)
        end = ends.argmax(dim=-1)[:, None, None].expand(-1, 1, states.shape[-1])
        return {"text_embeds": _unit(self.projection(states.gather(1, end)[:, 0]))}


class ImageEmbeds(Component):
    """Pixels [I, C, H, W] -> {"image_embeds": [I, P]} of length 1."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        vision, self.width = spec.vision, spec.projection_dim
        size, epsilon = vision.hidden_size, vision.layer_norm_eps
        patches = Patches(
            size, image=vision.image_size, patch=vision.patch_size, channels=vision.num_channels, bias=False
        )
        self.model = ImageModel(patches, stack(vision, normed=False), before=LayerNorm(size, epsilon))
        self.norm = LayerNorm(size, epsilon)
        self.projection = nn.Linear(size, spec.projection_dim, bias=False)

    def ports(self) -> tuple[Port, ...]:
        return tuple(port._replace(shape=("images", *port.shape[1:])) for port in self.model.ports())

    def outs(self) -> tuple[Out, ...]:
        return (Out("image_embeds", ("images", self.width), "embedding"),)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"image_embeds": _unit(self.projection(self.norm(self.model(pixel_values)[:, 0])))}


class Similarity(Component):
    """[I, P], [T, P] -> {"logits_per_image": [I, T], "logits_per_text": [T, I]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.width = spec.projection_dim
        self.scale = nn.Parameter(torch.empty(()))

    def ports(self) -> tuple[Port, ...]:
        return tuple(
            Port(f"{kind}_embeds", "float32", (rows, self.width), "features", source=source)
            for kind, rows, source in (("image", "images", "vision"), ("text", "texts", "text"))
        )

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["zero-shot-image-classification"].outs

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        logits = self.scale.exp() * image_embeds @ text_embeds.t()
        return {"logits_per_image": logits, "logits_per_text": logits.t()}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"text": TextEmbeds(spec), "vision": ImageEmbeds(spec), "similarity": Similarity(spec)})


def _tower(old: str, new: str) -> Within:
    layer = (
        Rename("self_attn.out_proj.*", "self_attn.o_proj.*"),
        Rename("layer_norm1.*", "attention_norm.*"),
        Rename("layer_norm2.*", "mlp_norm.*"),
        Rename("mlp.fc1.*", "mlp.up_proj.*"),
        Rename("mlp.fc2.*", "mlp.down_proj.*"),
    )
    return Within(f"{old}.encoder.layers.{{}}.", layer, to=f"{new}.stack.layers.{{}}.")


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Ignore("*.embeddings.position_ids"),
        _tower("text_model", "text"),
        Rename("text_model.embeddings.token_embedding.*", "text.embeddings.words.*"),
        Rename("text_model.embeddings.position_embedding.*", "text.embeddings.positions.table.*"),
        Rename("text_model.final_layer_norm.*", "text.stack.norm.*"),
        Rename("text_projection.*", "text.projection.*"),
        _tower("vision_model", "vision.model"),
        Rename("vision_model.embeddings.patch_embedding.*", "vision.model.embeddings.projection.*"),
        Unsqueeze("vision_model.embeddings.class_embedding", 2),
        Rename("vision_model.embeddings.class_embedding", "vision.model.embeddings.cls_token"),
        Unsqueeze("vision_model.embeddings.position_embedding.weight", 1),
        Rename("vision_model.embeddings.position_embedding.weight", "vision.model.embeddings.positions"),
        Rename("vision_model.pre_layrnorm.*", "vision.model.before.*"),  # upstream's spelling
        Rename("vision_model.post_layernorm.*", "vision.norm.*"),
        Rename("visual_projection.*", "vision.projection.*"),
        Rename("logit_scale", "similarity.scale"),
    )


_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_ODD = {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}

FAMILY = Family(
    spec=Spec,
    heads={heads.ZERO_SHOT_IMAGE: _compose},
    weights=_weights,
    inert=frozenset({"initializer_factor", "logit_scale_init_value"}),
    tiny={
        "text_config": {**_TINY, "vocab_size": 99, "max_position_embeddings": 60, "eos_token_id": 98},
        "vision_config": {**_TINY, "image_size": 30, "patch_size": 6},
        "projection_dim": 24,
    },
    variations=(
        {
            "text_config": {**_ODD, "vocab_size": 131, "max_position_embeddings": 33, "eos_token_id": 2},
            "vision_config": {**_ODD, "image_size": 23, "patch_size": 5, "num_channels": 1, "hidden_act": "gelu"},
            "projection_dim": 9,
        },
    ),
)
