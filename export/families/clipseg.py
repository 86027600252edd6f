"""CLIPSeg: CLIP's towers over pictures of any size, and a decoder that draws where in one is what a text says.
https://arxiv.org/abs/2112.10003"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.components import Composite
from precast.export.families import clip, clip_text_model, clip_vision_model
from precast.export.image_heads import ImageModel
from precast.export.signatures import Component
from precast.export.skeletons.encoder import PostNormLayer
from precast.export.skeletons.two_towers import ImageEmbeds, TextEmbeds, composed
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]

_CONDITION = "conditional_embeddings"


@dataclass(frozen=True, kw_only=True)
class Spec(clip.Spec):
    extract_layers: tuple[int, ...] = hf(default=(3, 6, 9), read=tuple)
    reduce_dim: int = hf(default=64)
    decoder_num_attention_heads: int = hf(default=4)
    decoder_intermediate_size: int = hf(default=2048)
    conditional_layer: int = hf(default=0)
    use_complex_transposed_convolution: bool = hf(default=False)

    def __post_init__(self) -> None:
        count = self.vision.num_hidden_layers
        if not self.extract_layers or any(not 0 <= layer < count for layer in self.extract_layers):
            raise ConfigError(
                f"'extract_layers' {list(self.extract_layers)} must number layers of 'vision_config', 0 to {count - 1}"
            )


class _Condition(TextEmbeds):
    """ids, mask [I, S] -> {"conditional_embeddings": [I, P]}: what is looked for in each picture."""

    rows = "images"

    def outs(self) -> tuple[Out, ...]:
        return (Out(_CONDITION, (self.rows, self.width), "embedding"),)

    def embedded(self, pooled: Tensor) -> dict[str, Tensor]:
        return {_CONDITION: self.projection(pooled)}


class _Decoder(nn.Module):
    """States of layers, the last first, [I, 1 + R * C, H] each, and what is looked for [I, P] -> logits [I, h, w]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width, patch, self.place = spec.reduce_dim, spec.vision.patch_size, spec.conditional_layer
        self.times, self.plus = (nn.Linear(spec.projection_dim, width) for _ in range(2))
        self.reduces = nn.ModuleList(nn.Linear(spec.vision.hidden_size, width) for _ in spec.extract_layers)
        self.layers = nn.ModuleList(
            PostNormLayer(
                attention=SelfAttention(width, heads=spec.decoder_num_attention_heads),
                attention_norm=LayerNorm(width, spec.vision.layer_norm_eps),
                mlp=MLP(width, spec.decoder_intermediate_size, F.relu),
                mlp_norm=LayerNorm(width, spec.vision.layer_norm_eps),
            )
            for _ in spec.extract_layers
        )
        part = patch // 4
        self.enlarged = (
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(width, width // 2, part, part),
                nn.ReLU(),
                nn.ConvTranspose2d(width // 2, 1, part, part),
            )
            if spec.use_complex_transposed_convolution
            else nn.ConvTranspose2d(width, 1, patch, patch)
        )

    def forward(self, states: list[Tensor], condition: Tensor, rows: int, columns: int) -> Tensor:
        x: Tensor | None = None
        for number, (state, reduce, layer) in enumerate(zip(states, self.reduces, self.layers, strict=True)):
            x = reduce(state) if x is None else reduce(state) + x
            if number == self.place:
                x = self.times(condition)[:, None] * x + self.plus(condition)[:, None]
            x = layer(x, None)
        assert x is not None
        grid = x[:, 1:].transpose(1, 2).clone(memory_format=torch.contiguous_format)
        drawn: Tensor = self.enlarged(grid.view(grid.shape[0], grid.shape[1], rows, columns))
        return drawn[:, 0]


class _Segments(Component):
    """Pixels [I, C, H, W] and what is looked for in each picture [I, P] -> {"logits": [I, h, w]}, whole patches."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model: ImageModel = clip_vision_model.body(spec.vision, free=True)
        self.decoder, self.width, self.patch = _Decoder(spec), spec.projection_dim, spec.vision.patch_size
        self.extracted = tuple(layer + 1 for layer in reversed(spec.extract_layers))

    def ports(self) -> tuple[Port, ...]:
        pictures = tuple(port._replace(shape=("images", *port.shape[1:])) for port in self.model.ports())
        return (*pictures, Port(_CONDITION, "float32", ("images", self.width), "features", source="text"))

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["prompted-segmentation"].outs

    def forward(self, pixel_values: Tensor, conditional_embeddings: Tensor) -> dict[str, Tensor]:
        taken = sorted(set(self.extracted))
        made = dict(zip(taken, self.model.states(pixel_values, taken), strict=True))
        # As the convolution of the patches counts them, so that a trace sees that these are all.
        rows, columns = ((side - self.patch) // self.patch + 1 for side in pixel_values.shape[2:])
        states = [made[layer] for layer in self.extracted]
        return {"logits": self.decoder(states, conditional_embeddings, rows, columns)}


def _projections(spec: Spec) -> tuple[nn.Linear, nn.Linear]:
    text, vision = (nn.Linear(part.hidden_size, spec.projection_dim, bias=False) for part in (spec.text, spec.vision))
    return text, vision


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text, vision, width = spec.text, spec.vision, spec.projection_dim
    of_text, of_picture = _projections(spec)
    return composed(
        TextEmbeds(clip_text_model.body(text), clip_text_model.pooler(text), of_text, width),
        ImageEmbeds(clip_vision_model.body(vision, free=True), clip_vision_model.pooler(vision), of_picture, width),
    )


def _segmenter(spec: Spec, absent: frozenset[str]) -> nn.Module:
    text = spec.text
    of_text, _ = _projections(spec)
    condition = _Condition(clip_text_model.body(text), clip_text_model.pooler(text), of_text, spec.projection_dim)
    return Composite({"text": condition, "vision": _Segments(spec)})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    names = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2", "self_attn.o_proj": "self_attn.out_proj"}
    names |= {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
    decoder = (
        Within("layers.{}.", tuple(Rename(f"{old}.*", f"{new}.*") for new, old in names.items())),
        Rename("film_mul.*", "times.*"),
        Rename("film_add.*", "plus.*"),
        Rename("transposed_convolution.*", "enlarged.*"),
    )
    return (Rename("clip.*", "*"), *clip.FAMILY.weights(spec), Within("decoder.", decoder, to="vision.decoder."))


_DECODER = {"reduce_dim": 16, "decoder_intermediate_size": 24}

FAMILY = replace(
    clip.FAMILY,
    spec=Spec,
    heads={heads.PROMPTED_SEGMENTATION: _segmenter, heads.ZERO_SHOT_IMAGE: _compose},
    weights=_weights,
    inert=clip.FAMILY.inert | {"decoder_attention_dropout", "decoder_hidden_act"},
    tiny={**clip.FAMILY.tiny, **_DECODER, "extract_layers": [0, 1]},
    variations=(
        {
            "text_config": clip_text_model.ODD,
            "vision_config": {**clip_vision_model.ODD, "patch_size": 8, "image_size": 24, "num_hidden_layers": 2},
            "projection_dim": 9,
            "reduce_dim": 18,
            "decoder_num_attention_heads": 3,
            "extract_layers": [1, 0, 0],
            "conditional_layer": 2,
            "use_complex_transposed_convolution": True,
        },
    ),
)
