"""MGP-STR: ViT over a line of text in a scene, and three heads that read it as characters, as byte pairs and as word
pieces, each choosing where it looks for every place of the text. https://arxiv.org/abs/2209.03592"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.convolution import Convolution
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.families import Family
from precast.export.image_heads import ImageModel
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]

_GROUPS = 8  # of channels, in which a head learns where to look
_READ = {"char": "num_character_labels", "bpe": "num_bpe_labels", "wp": "num_wordpiece_labels"}


def _pair(value: Any) -> tuple[int, ...]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(one) is int and one > 0 for one in pair):
        raise ValueError("it is a number of pixels, or a height and a width")
    return pair


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are MGP-STR-base's."""

    image_size: tuple[int, ...] = hf(default=(32, 128), read=_pair)
    patch_size: tuple[int, ...] = hf(default=(4, 4), read=_pair)
    num_channels: int = hf(default=3)
    max_token_length: int = hf(default=27)
    num_character_labels: int = hf(default=38)
    num_bpe_labels: int = hf(default=50257)
    num_wordpiece_labels: int = hf(default=30522)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    mlp_ratio: float = hf(default=4.0)
    qkv_bias: bool = hf(default=True)
    distilled: bool = hf(default=False, only=(False,))  # upstream has a position too many for it
    layer_norm_eps: float = hf(default=1e-5)

    @property
    def hidden_act(self) -> Activation:
        return activation("gelu")

    @property
    def intermediate_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    def __post_init__(self) -> None:
        if self.hidden_size % _GROUPS:
            raise ConfigError(f"'hidden_size' {self.hidden_size} must be a multiple of {_GROUPS}")
        if any(patch > side for patch, side in zip(self.patch_size, self.image_size, strict=True)):
            raise ConfigError(f"'patch_size' {self.patch_size} must fit into 'image_size' {self.image_size}")


class _Patches(nn.Module):
    """Pixels [B, C, H, W] -> a class token and the patches, with positions, [B, 1 + P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        (height, width), (high, wide), size = spec.image_size, spec.patch_size, spec.hidden_size
        self.shape = (spec.num_channels, height, width)
        self.proj = nn.Conv2d(spec.num_channels, size, kernel_size=(high, wide), stride=(high, wide))
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.pos_embed = nn.Parameter(torch.empty(1, (height // high) * (width // wide) + 1, size))

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", *self.shape), "pixels"),)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = rows_of(self.proj(pixels))
        return torch.cat((self.cls_token.expand(pixels.shape[0], -1, -1), rows), dim=1) + self.pos_embed


class _Reader(nn.Module):
    """States [B, S, H] -> logits [B, T, L]: for each place of a text, what is read at a mean of the states."""

    def __init__(self, spec: Spec, labels: int) -> None:
        super().__init__()
        size = spec.hidden_size
        self.token_norm, self.norm = (LayerNorm(size, spec.layer_norm_eps) for _ in range(2))
        self.look, self.feat = (Convolution(size, size, groups=_GROUPS, bias=False) for _ in range(2))
        self.select = nn.Linear(size, spec.max_token_length, bias=False)
        self.head = nn.Linear(size, labels)

    def forward(self, states: Tensor) -> Tensor:
        columns = self.token_norm(states).transpose(1, 2)[..., None]  # [B, H, S, 1]
        weights = torch.softmax(self.select(self.look(columns)[..., 0].transpose(1, 2)), dim=1)  # [B, S, T]
        seen = weights.transpose(1, 2) @ self.feat(columns)[..., 0].transpose(1, 2)
        return self.head(self.norm(seen))


class _SceneText(Component):
    """{"char_logits", "bpe_logits", "wp_logits"}, each [B, T, L]: upstream's ``logits``, one after the other."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model = ImageModel(_Patches(spec), stack(spec, bias=spec.qkv_bias, normed=False))
        self.length, self.labels = spec.max_token_length, {name: getattr(spec, key) for name, key in _READ.items()}
        self.readers = nn.ModuleDict({name: _Reader(spec, count) for name, count in self.labels.items()})

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return tuple(
            Out(f"{name}_logits", ("batch", self.length, count), "logits") for name, count in self.labels.items()
        )

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values)
        return {f"{name}_logits": reader(states) for name, reader in self.readers.items()}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = (
        *(Split(f"attn.qkv.{kind}", tuple(f"self_attn.{p}_proj.{kind}" for p in "qkv")) for kind in _PARTS),
        Rename("attn.proj.*", "self_attn.o_proj.*"),
        Rename("norm1.*", "attention_norm.*"),
        Rename("norm2.*", "mlp_norm.*"),
        Rename("mlp.fc1.*", "mlp.up_proj.*"),
        Rename("mlp.fc2.*", "mlp.down_proj.*"),
    )
    shape = (spec.max_token_length, spec.hidden_size)
    rules: list[Rule] = [
        Rename("mgp_str.*", "*"),
        Within("encoder.blocks.{}.", layer, to="model.stack.layers.{}."),
        Rename("embeddings.*", "model.embeddings.*"),
    ]
    for name in _READ:
        rules += [
            Rename(f"{name}_a3_module.tokenLearner.0.*", f"readers.{name}.look.*"),
            Compute(
                (f"{name}_a3_module.tokenLearner.1.weight",),
                f"{name}_a3_module.tokenLearner.1.weight",
                shape,
                lambda kernel: kernel.reshape(shape),
            ),
            Rename(f"{name}_a3_module.tokenLearner.1.*", f"readers.{name}.select.*"),
            Rename(f"{name}_a3_module.*", f"readers.{name}.*"),
            Rename(f"{name}_head.*", f"readers.{name}.head.*"),
        ]
    return tuple(rules)


_PARTS = ("weight", "bias")

FAMILY = Family(
    model_type="mgp-str",
    spec=Spec,
    heads={heads.BASE: lambda spec, absent: _SceneText(spec)},
    weights=_weights,
    inert=frozenset({"attn_drop_rate", "drop_path_rate", "drop_rate", "output_a3_attentions"}),
    tiny={"image_size": [8, 20], "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 1.5}
    | {"max_token_length": 5, "num_character_labels": 9, "num_bpe_labels": 21, "num_wordpiece_labels": 13},
    variations=(
        {"image_size": [9, 14], "patch_size": [4, 3], "num_channels": 1, "qkv_bias": False, "num_hidden_layers": 1}
        | {"hidden_size": 24, "num_attention_heads": 3, "layer_norm_eps": 1e-3},
    ),
)
